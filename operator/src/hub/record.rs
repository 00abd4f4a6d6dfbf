//! What is stored of a run: its newest record and from what it began, sealed so that nobody but the operator can have written it.

use atoll_proto::v1::{Beginning, EpochRecord};
use prost::Message;

use super::{Attempt, MasterKey};

/// Most bytes of what is stored: an object holds 1 MiB, and the members of a run are few.
pub(super) const MOST: usize = 256 << 10;

/// What is known of an attempt of a run.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Known {
    /// The newest granted record.
    pub(super) record: EpochRecord,
    /// From what it began, once that is decided.
    pub(super) beginning: Option<Beginning>,
}

/// As it is stored.
#[derive(Clone, PartialEq, prost::Message)]
struct Sealed {
    #[prost(string, tag = "1")]
    uid: String,
    #[prost(uint64, tag = "2")]
    attempt: u64,
    #[prost(message, optional, tag = "3")]
    record: Option<EpochRecord>,
    #[prost(message, optional, tag = "4")]
    beginning: Option<Beginning>,
    /// BLAKE3 of the rest, keyed.
    #[prost(bytes = "vec", tag = "5")]
    seal: Vec<u8>,
}

/// Why what is stored is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It was written by somebody else, or damaged.
    #[error("what is stored was not written by this operator: remove it, and the run begins anew from its checkpoint")]
    Foreign,
    /// A later attempt has begun.
    #[error("attempt {stored} of the run is stored: attempt {served} is over")]
    Later {
        /// The attempt that is stored.
        stored: u64,
        /// The one that is served.
        served: u64,
    },
}

/// The bytes to store.
pub(super) fn close(master: &MasterKey, attempt: &Attempt, known: &Known) -> Vec<u8> {
    let mut sealed = Sealed {
        uid: attempt.uid.clone(),
        attempt: attempt.attempt,
        record: Some(known.record.clone()),
        beginning: known.beginning.clone(),
        seal: Vec::new(),
    };
    sealed.seal = seal(master, &sealed).as_bytes().to_vec();
    sealed.encode_to_vec()
}

/// What is stored of `attempt`; none where it is of an earlier attempt, or of an earlier run of the same name.
pub(super) fn open(master: &MasterKey, attempt: &Attempt, bytes: &[u8]) -> Result<Option<Known>, RecordError> {
    let mut sealed = Sealed::decode(bytes).map_err(|_| RecordError::Foreign)?;
    let shown = <[u8; 32]>::try_from(std::mem::take(&mut sealed.seal)).map_err(|_| RecordError::Foreign)?;
    // Compared in constant time, as hashes are.
    if seal(master, &sealed) != shown {
        return Err(RecordError::Foreign);
    }
    if sealed.uid != attempt.uid || sealed.attempt < attempt.attempt {
        return Ok(None);
    }
    if sealed.attempt > attempt.attempt {
        return Err(RecordError::Later { stored: sealed.attempt, served: attempt.attempt });
    }
    Ok(Some(Known { record: sealed.record.unwrap_or_default(), beginning: sealed.beginning }))
}

/// Of a record without its seal.
fn seal(master: &MasterKey, sealed: &Sealed) -> blake3::Hash {
    blake3::keyed_hash(&master.seal(&sealed.uid, sealed.attempt), &sealed.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::RunKey;

    fn attempt(uid: &str, attempt: u64) -> Attempt {
        Attempt { key: RunKey { namespace: "research".into(), name: "kjv".into() }, uid: uid.into(), attempt }
    }

    fn known() -> Known {
        let beginning = Beginning { lineage: 3, ..Beginning::default() };
        Known { record: EpochRecord { term: 4, epoch: 2, ..EpochRecord::default() }, beginning: Some(beginning) }
    }

    #[test]
    fn what_was_stored_is_read_again() {
        let master = MasterKey::new([1; 32]);
        let stored = close(&master, &attempt("uid", 2), &known());
        assert_eq!(open(&master, &attempt("uid", 2), &stored), Ok(Some(known())));
        assert_eq!(open(&master, &attempt("uid", 3), &stored), Ok(None), "it began anew");
        assert_eq!(open(&master, &attempt("other", 1), &stored), Ok(None), "the name was used before");
        assert_eq!(open(&master, &attempt("uid", 1), &stored), Err(RecordError::Later { stored: 2, served: 1 }));
    }

    #[test]
    fn what_somebody_else_wrote_is_refused_whatever_they_changed() {
        let master = MasterKey::new([1; 32]);
        let stored = close(&master, &attempt("uid", 2), &known());
        for bit in 0..stored.len() * 8 {
            let mut changed = stored.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(open(&master, &attempt("uid", 2), &changed), Ok(Some(read)) if read != known()), "bit {bit}");
        }
        let theirs = close(&MasterKey::new([2; 32]), &attempt("uid", 2), &known());
        for foreign in [&theirs[..], &[], b"{}"] {
            assert_eq!(open(&master, &attempt("uid", 2), foreign), Err(RecordError::Foreign));
        }
    }
}
