//! A human's word to a sidecar, and its answers.

use atoll_proto::v1::{ForceReply, ForceRequest, StandRequest, Standing};

use super::session::{member, record};
use super::{Frame, message};

pub(super) const FRAMES: [Frame; 4] = [
    message!("recovery-stand", StandRequest {}),
    message!(
        "recovery-standing",
        Standing { member: Some(member(1)), record: Some(record()), hub: Some(member(9)), without_majority: true }
    ),
    message!("recovery-force", ForceRequest { observed_term: 3, survivors: vec![member(0), member(1)] }),
    message!("recovery-force-reply", ForceReply {}),
];
