//! What a direct convolution is predicted to take.

use crate::geometry::Geometry;
use crate::offer::Cost;

/// Nanoseconds that a multiply-add of float32 takes on one thread of the nominal machine of
/// [`offer`](crate::offer), as measured on a Sapphire Rapids core: with many output channels to a group
/// (205 GFLOP/s), with tiles of neighbouring outputs (140), and where neither is to be had (75). A signal
/// by its phases runs as many output channels do, but its staging and turning take a nanosecond a result.
const MANY_OUTPUTS: f64 = 2.0 / 205.0;
const NEIGHBOURS: f64 = 2.0 / 140.0;
const LONE_ROWS: f64 = 2.0 / 75.0;
const TURNED: f64 = 1.0;

/// The predicted time of a convolution of elements of some bytes.
pub fn offer(geometry: &Geometry, element: usize) -> Cost {
    let [.., along, row] = geometry.axes.as_slice() else { return Cost::default() };
    let signal = geometry.axes.len() == 2 && row.stride.is_multiple_of(row.dilation);
    let product = match geometry.outputs {
        8.. => MANY_OUTPUTS,
        _ if geometry.axes.len() > 2 && along.kernel > 1 => NEIGHBOURS,
        1 if signal => LONE_ROWS.min(MANY_OUTPUTS + TURNED / row.kernel as f64),
        // Each output channel more uses a vector of positions once more.
        few => (LONE_ROWS / few as f64).max(MANY_OUTPUTS),
    };
    let work = geometry.flops() / 2.0 * product * (element as f64 / 4.0);
    Cost { weights: 0.0, work }
}
