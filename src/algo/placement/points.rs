//! Rings: sorted points, each with its member; a key belongs to the first point that is not before it.
//!
//! Makes no points: each method has its own.

/// Points of 32 bits.
pub struct Points {
    values: Box<[u32]>,
    members: Box<[u16]>,
}

/// Points of 64 bits.
pub struct WidePoints {
    values: Box<[u64]>,
    members: Box<[u16]>,
}

macro_rules! ring {
    ($name:ident, $value:ty) => {
        impl $name {
            /// `points` are in ascending order.
            pub fn sorted(points: &[($value, u16)]) -> Self {
                debug_assert!(points.is_sorted_by_key(|(value, _)| value));
                Self {
                    values: points.iter().map(|(value, _)| *value).collect(),
                    members: points.iter().map(|(_, member)| *member).collect(),
                }
            }

            /// The place of the first point that is not before `value`; of the first of all where none is.
            pub fn find(&self, value: $value) -> usize {
                let at = self.values.partition_point(|point| *point < value);
                if at == self.values.len() { 0 } else { at }
            }

            pub fn at(&self, place: usize) -> u16 {
                self.members[place]
            }

            pub fn len(&self) -> usize {
                self.values.len()
            }

            pub fn bytes(&self) -> usize {
                size_of_val(&*self.values) + size_of_val(&*self.members)
            }
        }
    };
}

ring!(Points, u32);
ring!(WidePoints, u64);

impl Points {
    /// Of the point at a place.
    #[cfg(test)]
    pub fn value(&self, place: usize) -> u32 {
        self.values[place]
    }
}
