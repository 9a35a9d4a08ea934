//! What the two sides of the products at each point are.

/// What the rows of a product's tiles are. The vectors are the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Output channels.
    Outputs,
    /// Tiles of the image, any number of them: 7 x 7 would fill 3.06 vectors of 16. A vector of weights that
    /// came from far away is used for all of them.
    Tiles,
}

impl Role {
    /// With so many output channels, in vectors of so many, and taps that are left.
    pub fn new(outputs: usize, lanes: usize, taps: usize) -> Self {
        // Taps that are left shift vectors of tiles. Else vectors of output channels are taken where nearly all of
        // their lanes are.
        let filled = outputs.next_multiple_of(lanes) * 7 <= outputs * 8;
        if taps == 1 && outputs > lanes && filled { Role::Tiles } else { Role::Outputs }
    }
}
