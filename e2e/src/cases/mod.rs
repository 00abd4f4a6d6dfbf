//! The cases, by what they are about.

pub(crate) mod faults;
pub(crate) mod lifecycle;
pub(crate) mod results;
pub(crate) mod scaling;
pub(crate) mod waiting;

use std::time::Duration;

/// How long a run may take to begin: images, data, identities.
pub(crate) const BEGINNING: Duration = Duration::from_secs(90);
/// How long a run may take to its end.
pub(crate) const ENDING: Duration = Duration::from_mins(4);
/// How long something that happens at once may take.
pub(crate) const SOON: Duration = Duration::from_secs(30);
