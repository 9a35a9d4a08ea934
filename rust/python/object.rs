//! Python's objects, and what is said of those of a wrong type.

use pyo3::prelude::*;

use crate::error::Error;

/// An argument.
pub(super) type Any<'a, 'py> = &'a Bound<'py, PyAny>;

/// The name of an object's type, for errors.
fn type_name(object: Any<'_, '_>) -> String {
    object.get_type().name().map_or_else(|_| "?".into(), |name| name.to_string())
}

/// What is raised for an argument of another type than expected.
pub(super) fn wrong_type(
    argument: &'static str,
    expected: impl Into<String>,
    found: Any<'_, '_>,
) -> PyErr {
    Error::ArgumentType { argument, expected: expected.into(), found: type_name(found) }.into()
}
