//! A worker's state out of a checkpoint.

use atoll_checkpoint::manifest::{ElementType, Piece, PrivateState, Vector};
use atoll_checkpoint::{Folder, Resume};
use atoll_sdk::Region;
use futures::{StreamExt, TryStreamExt};

use super::state::{State, Vectors};
use super::{RestoreError, TrainerError};

/// Shards that are read at once.
const AT_ONCE: usize = 2;

/// Whose private state a worker goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Private {
    /// There is none.
    None,
    /// Its own.
    Own {
        /// Inner steps that it has seen.
        steps: u64,
    },
    /// Another worker's moments: the checkpoint has none of its own.
    Donor {
        /// Whose.
        slot: u32,
        /// Inner steps that they have seen.
        steps: u64,
    },
}

/// Whether a run with these vectors, each of so many elements, can go on from a checkpoint.
///
/// # Errors
/// [`RestoreError`]: in what it differs.
pub fn check(resume: &Resume, vectors: &Vectors, parameters: u64) -> Result<(), RestoreError> {
    check_part("replicated", &resume.manifest.replicated, &vectors.replicated, parameters)?;
    for state in &resume.manifest.private {
        check_part("private", &state.vectors, &vectors.private, parameters)?;
    }
    Ok(())
}

fn check_part(field: &'static str, kept: &[Vector], wanted: &[&'static str], parameters: u64) -> Result<(), RestoreError> {
    if let Some(name) = wanted.iter().find(|name| !kept.iter().any(|vector| vector.name == **name)) {
        return Err(RestoreError::Missing { field, name: (*name).to_owned() });
    }
    if let Some(vector) = kept.iter().find(|vector| !wanted.contains(&vector.name.as_str())) {
        return Err(RestoreError::Unknown { field, name: vector.name.clone() });
    }
    let other = |vector: &&Vector| vector.elements != parameters || vector.element_type != ElementType::F32;
    kept.iter().find(other).map_or(Ok(()), |vector| {
        Err(RestoreError::Shape { name: vector.name.clone(), kept: vector.elements, wanted: parameters })
    })
}

/// Fills the state of the worker of this slot.
pub(super) fn restore(resume: &Resume, state: &State, slot: u32) -> Result<Private, TrainerError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RestoreError::Runtime)?;
    let folder = resume.location.open().map_err(RestoreError::Location)?;
    runtime.block_on(async {
        for vector in &resume.manifest.replicated {
            fill(&folder, vector, state.place(&vector.name, false)).await?;
        }
        let private = &resume.manifest.private;
        let own = private.iter().find(|kept| kept.slot == slot);
        let donor = || private.get(slot as usize % private.len().max(1));
        let Some(PrivateState { slot: from, steps, vectors, .. }) = own.or_else(donor) else { return Ok(Private::None) };
        for vector in vectors.iter().filter(|vector| own.is_some() || !State::is_residual(&vector.name)) {
            fill(&folder, vector, state.place(&vector.name, true)).await?;
        }
        let steps = *steps;
        Ok(if own.is_some() { Private::Own { steps } } else { Private::Donor { slot: *from, steps } })
    })
}

async fn fill(folder: &Folder, vector: &Vector, place: Option<(&Region, usize)>) -> Result<(), RestoreError> {
    let unknown = || RestoreError::Unknown { field: "state", name: vector.name.clone() };
    let (region, start) = place.ok_or_else(unknown)?;
    let mut next = start;
    let placed = vector.pieces.iter().map(|piece| {
        let offset = next;
        next += (piece.elements * vector.element_type.size()) as usize;
        (piece, offset)
    });
    let placed: Vec<(&Piece, usize)> = placed.collect();
    // Its length is that of the region's part: checked before anything was started.
    let reads = placed.into_iter().map(|(piece, offset)| {
        let region = region.clone();
        folder.place(vector.element_type, piece, move |at, part| _ = region.write(offset + at as usize, part))
    });
    futures::stream::iter(reads).buffer_unordered(AT_ONCE).try_collect().await.map_err(RestoreError::Store)
}

#[cfg(test)]
mod tests {
    use atoll_checkpoint::manifest::{Manifest, VERSION};
    use atoll_checkpoint::{Location, Place};
    use atoll_sdk::CommitRecord;

    use super::*;

    fn vector(name: &str, elements: u64) -> Vector {
        Vector { name: name.into(), element_type: ElementType::F32, elements, pieces: Vec::new() }
    }

    fn refused(replicated: Vec<Vector>, private: Vec<Vector>) -> String {
        let manifest = Manifest {
            version: VERSION,
            written_by: String::new(),
            run: "kjv".into(),
            place: Place { lineage: 1, term: 1, epoch: 1, round: 3 },
            from: None,
            step: 3,
            tokens: 0,
            loss: 0.0,
            seed: 0,
            record: String::new(),
            replicated,
            private: vec![PrivateState { slot: 0, round: 3, steps: 3, vectors: private }],
            files: Vec::new(),
        };
        let location = Location::at("nowhere", "/".into());
        let resume = Resume { location, manifest, committed: CommitRecord::default() };
        let vectors = Vectors { replicated: vec!["parameters"], private: vec!["firstMoment", "secondMoment"] };
        check(&resume, &vectors, 100).map_or_else(|error| error.to_string(), |()| "taken".to_owned())
    }

    #[test]
    fn a_checkpoint_of_another_model_or_method_is_refused_by_what_differs() {
        let moments = || vec![vector("firstMoment", 100), vector("secondMoment", 100)];
        assert_eq!(refused(vec![vector("parameters", 100)], moments()), "taken");
        let said = refused(vec![vector("parameters", 90)], moments());
        assert!(said.contains("parameters has 90 elements in the checkpoint and 100 in this run"), "{said}");
        let said = refused(vec![vector("parameters", 100), vector("outerMomentum", 100)], moments());
        assert!(said.contains("outerMomentum") && said.contains("method"), "{said}");
        let said = refused(vec![vector("parameters", 100)], vec![vector("firstMoment", 100)]);
        assert!(said.contains("no private vector secondMoment"), "{said}");
    }
}
