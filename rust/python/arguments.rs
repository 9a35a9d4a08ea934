//! Arguments of Python calls: from objects to options, with an error that says what would do.

use std::borrow::Cow;

use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyComplex, PyString, PyTuple};

use super::dtype::{Number, Part};
use super::object::{Any, wrong_type};
use crate::error::Error;
use crate::geometry::{Activation, Padding, PaddingMode, PerAxis, Spec};
use crate::number::Element;
use crate::offer::Precision;
use crate::parallel;
use crate::plan::{Asked, Method};

/// An integer: anything with `__index__`. `Ok(None)` where the object is of another type.
pub(super) fn integer(argument: &'static str, object: Any<'_, '_>) -> PyResult<Option<i64>> {
    // The usual sequence, told apart before the conversion raises an error for it.
    if object.is_instance_of::<PyTuple>() {
        return Ok(None);
    }
    match object.extract::<i64>() {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_instance_of::<PyOverflowError>(object.py()) => {
            let value = object.str().map_or_else(|_| "?".into(), |text| text.to_string());
            Err(Error::Name { argument, value, choices: "a number of at most 63 bits" }.into())
        }
        Err(error) if error.is_instance_of::<PyTypeError>(object.py()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The items of a sequence; strings, mappings and sets are none. `None` for anything else.
pub(super) fn items<'py>(object: Any<'_, 'py>) -> PyResult<Option<Vec<Bound<'py, PyAny>>>> {
    if let Ok(tuple) = object.cast::<PyTuple>() {
        return Ok(Some(tuple.iter().collect()));
    }
    let sequence = object.hasattr("__getitem__")? && object.hasattr("__len__")?;
    if !sequence || object.is_instance_of::<PyString>() || object.hasattr("keys")? {
        return Ok(None);
    }
    match object.try_iter() {
        Ok(iterator) => iterator.collect::<PyResult<_>>().map(Some),
        // An array without dimensions has the methods of a sequence and refuses.
        Err(error) if error.is_instance_of::<PyTypeError>(object.py()) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn integers(argument: &'static str, object: Any<'_, '_>) -> PyResult<PerAxis<i64>> {
    if let Some(value) = integer(argument, object)? {
        return Ok(PerAxis::All(value));
    }
    let expected = "an int or a sequence of ints";
    let items = items(object)?.ok_or_else(|| wrong_type(argument, expected, object))?;
    let each = items.iter().map(|item| {
        integer(argument, item)?.ok_or_else(|| wrong_type(argument, "a sequence of ints", item))
    });
    each.collect::<PyResult<_>>().map(PerAxis::Each)
}

pub(super) fn padding(object: Any<'_, '_>) -> PyResult<Padding> {
    const ARGUMENT: &str = "padding";
    let expected = "an int, a sequence with one int or one (before, after) pair an axis, or one of \
                    \"valid\", \"same\", \"same_lower\", \"full\", \"causal\"";
    if let Some(value) = integer(ARGUMENT, object)? {
        return Ok(Padding::Sides(PerAxis::All((value, value))));
    }
    if let Ok(name) = object.cast::<PyString>() {
        return match name.to_cow()?.as_ref() {
            "valid" => Ok(Padding::Valid),
            "same" => Ok(Padding::Same),
            "same_lower" => Ok(Padding::SameLower),
            "full" => Ok(Padding::Full),
            "causal" => Ok(Padding::Causal),
            other => Err(Error::Name {
                argument: ARGUMENT,
                value: format!("{other:?}"),
                choices: "\"valid\", \"same\", \"same_lower\", \"full\", \"causal\", or numbers",
            }
            .into()),
        };
    }
    let sides = items(object)?.ok_or_else(|| wrong_type(ARGUMENT, expected, object))?;
    let each = sides.iter().map(|side| {
        if let Some(value) = integer(ARGUMENT, side)? {
            return Ok((value, value));
        }
        let pair = items(side)?.unwrap_or_default();
        match pair.as_slice() {
            [before, after] => match (integer(ARGUMENT, before)?, integer(ARGUMENT, after)?) {
                (Some(before), Some(after)) => Ok((before, after)),
                _ => Err(wrong_type(ARGUMENT, "ints in each (before, after) pair", side)),
            },
            _ => Err(wrong_type(ARGUMENT, expected, side)),
        }
    });
    Ok(Padding::Sides(PerAxis::Each(each.collect::<PyResult<_>>()?)))
}

pub(super) fn padding_mode(object: Any<'_, '_>) -> PyResult<PerAxis<PaddingMode>> {
    const ARGUMENT: &str = "padding_mode";
    let parse = |name: &Bound<'_, PyString>| match name.to_cow()?.as_ref() {
        "zeros" | "constant" => Ok(PaddingMode::Constant),
        "reflect" => Ok(PaddingMode::Reflect),
        "symmetric" => Ok(PaddingMode::Symmetric),
        "replicate" | "edge" => Ok(PaddingMode::Replicate),
        "circular" | "wrap" => Ok(PaddingMode::Circular),
        other => Err(PyErr::from(Error::Name {
            argument: ARGUMENT,
            value: format!("{other:?}"),
            choices: "\"zeros\" (\"constant\"), \"reflect\", \"symmetric\", \"replicate\" (\"edge\") \
                      or \"circular\" (\"wrap\")",
        })),
    };
    if let Ok(name) = object.cast::<PyString>() {
        return parse(name).map(PerAxis::All);
    }
    let expected = "a str or a sequence with one str an axis";
    let names = items(object)?.ok_or_else(|| wrong_type(ARGUMENT, expected, object))?;
    let each = names.iter().map(|name| {
        parse(name.cast::<PyString>().map_err(|_| wrong_type(ARGUMENT, expected, name))?)
    });
    each.collect::<PyResult<_>>().map(PerAxis::Each)
}

pub(super) fn activation(object: Any<'_, '_>) -> PyResult<Activation> {
    const ARGUMENT: &str = "activation";
    let expected = "None, \"relu\" or (\"clip\", low, high)";
    if object.is_none() {
        return Ok(Activation::None);
    }
    let unknown = |value| Error::Name {
        argument: ARGUMENT,
        value,
        choices: "None, \"relu\" or (\"clip\", low, high)",
    };
    if let Ok(name) = object.cast::<PyString>() {
        return match name.to_cow()?.as_ref() {
            "relu" => Ok(Activation::Relu),
            other => Err(unknown(format!("{other:?}")).into()),
        };
    }
    let parts = items(object)?.ok_or_else(|| wrong_type(ARGUMENT, expected, object))?;
    match parts.as_slice() {
        [name, low, high] if name.eq("clip")? => {
            let bound = |bound: Any<'_, '_>| {
                bound
                    .extract::<f64>()
                    .map_err(|_| wrong_type(ARGUMENT, "clipped at numbers", bound))
            };
            Ok(Activation::clip(bound(low)?, bound(high)?)?)
        }
        _ => Err(unknown(object.repr()?.to_string()).into()),
    }
}

/// A number argument, by its parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Constant {
    real: Value,
    imaginary: f64,
}

/// A real number: Python's integers have more bits than a double.
#[derive(Clone, Copy, Debug)]
enum Value {
    Integer(i128),
    Float(f64),
}

impl Constant {
    pub(super) fn new(argument: &'static str, object: Any<'_, '_>) -> PyResult<Self> {
        let wrong = |_| wrong_type(argument, "a number", object);
        let kind = || object.getattr("dtype").and_then(|dtype| dtype.getattr("kind"));
        let (real, imaginary) = if let Ok(integer) = object.extract::<i64>() {
            (Value::Integer(integer.into()), 0.0)
        } else if let Ok(integer) = object.extract::<i128>() {
            (Value::Integer(integer), 0.0)
        } else if object.is_instance_of::<PyComplex>()
            || kind().is_ok_and(|k| k.eq("c").is_ok_and(|c| c))
        {
            let part = |name| object.getattr(name)?.extract::<f64>();
            (Value::Float(part("real").map_err(wrong)?), part("imag").map_err(wrong)?)
        } else {
            (Value::Float(object.extract().map_err(wrong)?), 0.0)
        };
        Ok(Constant { real, imaginary })
    }

    /// Checks that it goes with arrays of some numbers.
    pub(super) fn check(
        &self,
        argument: &'static str,
        (x, integers): (Number, bool),
    ) -> Result<(), Error> {
        match self.real {
            Value::Float(value) if integers && !whole(value) => {
                return Err(Error::NotWhole { argument, value: value.to_string() });
            }
            _ => {}
        }
        if self.imaginary != 0.0 && !x.complex {
            return Err(Error::ComplexConstant { argument });
        }
        Ok(())
    }

    /// Whether it is 0.
    pub(super) fn is_zero(&self) -> bool {
        self.imaginary == 0.0 && self.part::<f64>(Part::Real) == 0.0
    }

    /// It as an integer of 64 bits, if it is one.
    pub(super) fn integer(&self) -> Option<i64> {
        match self.real {
            Value::Integer(value) => i64::try_from(value).ok(),
            Value::Float(value) => (value.abs() < 9e15).then_some(value as i64),
        }
    }

    /// Its absolute value, of an integer.
    pub(super) fn magnitude(&self) -> u64 {
        match self.real {
            Value::Integer(value) => u64::try_from(value.unsigned_abs()).unwrap_or(u64::MAX),
            Value::Float(value) => value.abs() as u64,
        }
    }

    /// A part of it.
    pub(super) fn part<T: Element>(&self, part: Part) -> T {
        match (part, self.real) {
            (Part::Imaginary, _) => T::from_f64(self.imaginary),
            (Part::Real, Value::Float(value)) if !T::SCALAR.is_integer() => T::from_f64(value),
            (Part::Real, Value::Float(value)) => T::from_i64(value as i128 as i64),
            // Modulo 2 to its bits; of floats, the nearest.
            (Part::Real, Value::Integer(value)) if T::SCALAR.is_integer() => {
                T::from_i64(value as i64)
            }
            (Part::Real, Value::Integer(value)) => T::from_f64(value as f64),
        }
    }
}

/// Whether a number is an integer.
fn whole(value: f64) -> bool {
    value.is_finite() && value.trunc() == value
}

/// Checks that an activation goes with sums of integers, if they are.
pub(super) fn check_activation(activation: Activation, integers: bool) -> Result<(), Error> {
    if let (Activation::Clip { low, high }, true) = (activation, integers) {
        for bound in [low, high] {
            if !whole(bound) && !bound.is_infinite() {
                let (argument, value) = ("activation", format!("(\"clip\", {low}, {high})"));
                return Err(Error::NotWhole { argument, value });
            }
        }
    }
    Ok(())
}

/// Checks that a method goes with sums of integers, if they are.
pub(super) fn check_method(asked: Asked, integers: bool) -> Result<(), Error> {
    match asked.method {
        Some(method) if integers && method != Method::Direct => {
            Err(Error::MethodOfIntegers { method: method.name() })
        }
        _ => Ok(()),
    }
}

pub(super) fn boolean(argument: &'static str, object: Any<'_, '_>) -> PyResult<bool> {
    object.extract().map_err(|_| wrong_type(argument, "True or False", object))
}

pub(super) fn threads(object: Any<'_, '_>) -> PyResult<usize> {
    if object.is_none() {
        return Ok(parallel::num_threads()?);
    }
    match integer("threads", object)? {
        Some(value) => Ok(parallel::check_threads(value)?),
        None => Err(wrong_type("threads", "an int or None", object)),
    }
}

/// A string argument.
fn name<'a>(argument: &'static str, object: &'a Bound<'_, PyAny>) -> PyResult<Cow<'a, str>> {
    let name = object.cast::<PyString>().map_err(|_| wrong_type(argument, "a str", object))?;
    name.to_cow()
}

/// The method and the precision that are asked for, which must go together.
pub(super) fn asked(method: Any<'_, '_>, precision: Any<'_, '_>) -> PyResult<Asked> {
    let method = Method::parse(&name("method", method)?)?;
    Ok(Asked::new(method, Precision::parse(&name("precision", precision)?)?)?)
}

/// The options that shapes depend on: stride, padding, dilation, groups and padding mode.
pub(super) fn spec(
    rank: Option<usize>,
    options: [Any<'_, '_>; 5],
    channels_last: bool,
) -> PyResult<Spec> {
    let [stride, padding, dilation, groups, mode] = options;
    Ok(Spec {
        rank,
        stride: integers("stride", stride)?,
        padding: self::padding(padding)?,
        dilation: integers("dilation", dilation)?,
        groups: integer("groups", groups)?.ok_or_else(|| wrong_type("groups", "an int", groups))?,
        mode: padding_mode(mode)?,
        channels_last,
    })
}

/// A shape argument.
pub(super) fn shape(argument: &'static str, object: Any<'_, '_>) -> PyResult<Vec<usize>> {
    match integers(argument, object)? {
        PerAxis::Each(sizes) => sizes
            .into_iter()
            .map(|n| {
                let value = n.to_string();
                let choices = "a shape of sizes that are at least 0";
                usize::try_from(n).map_err(|_| Error::Name { argument, value, choices }.into())
            })
            .collect(),
        PerAxis::All(_) => Err(wrong_type(argument, "a shape (a sequence of ints)", object)),
    }
}
