//! The membership of a pool as it is now: for most pools the same for ever, for those that discover endpoints the latest.
//!
//! Two kinds, since reading what somebody may replace costs each request what most pools have no use for.

use std::ops::Deref;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::Membership;

pub enum Current {
    Fixed(Arc<Membership>),
    Changing(ArcSwap<Membership>),
}

/// A membership in somebody's hands; it may be out of date by the next reading.
pub enum Reading<'c> {
    Fixed(&'c Arc<Membership>),
    Changing(Guard<Arc<Membership>>),
}

impl Current {
    pub fn new(membership: Membership, may_change: bool) -> Self {
        if may_change { Self::Changing(ArcSwap::from_pointee(membership)) } else { Self::Fixed(Arc::new(membership)) }
    }

    pub fn read(&self) -> Reading<'_> {
        match self {
            Self::Fixed(membership) => Reading::Fixed(membership),
            Self::Changing(membership) => Reading::Changing(membership.load()),
        }
    }

    /// Where it may change.
    pub fn replace(&self, membership: Membership) {
        match self {
            Self::Fixed(_) => debug_assert!(false, "nobody looks for endpoints of this pool"),
            Self::Changing(current) => current.store(Arc::new(membership)),
        }
    }
}

impl Deref for Reading<'_> {
    type Target = Arc<Membership>;

    fn deref(&self) -> &Arc<Membership> {
        match self {
            Self::Fixed(membership) => membership,
            Self::Changing(membership) => membership,
        }
    }
}
