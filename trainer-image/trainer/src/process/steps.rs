//! One inner step: every rank's gradient on its own sequences, added in rank order.

use crate::data::{Corpus, SampleOrder};
use crate::model::{Llama, ModelError};

use super::TrainerError;

/// The sequences of one rank in one step.
struct Batch {
    inputs: Vec<u32>,
    targets: Vec<u32>,
}

/// Computes gradients of a model over positions of the permutation.
pub(super) struct Gradients {
    /// Sequences per rank and step.
    batch: usize,
    /// The sum over ranks so far, then the mean.
    pub(super) mean: Vec<f32>,
    /// One more vector per further rank.
    others: Vec<Vec<f32>>,
}

impl Gradients {
    pub(super) fn new(parameters: usize, ranks: usize, batch: usize) -> Self {
        Self { batch, mean: vec![0.0; parameters], others: vec![vec![0.0; parameters]; ranks - 1] }
    }

    /// Positions that one step takes.
    pub(super) fn positions(&self) -> usize {
        (1 + self.others.len()) * self.batch
    }

    /// The mean gradient over all ranks at `positions`, left in `self.mean`; returns the mean loss.
    ///
    /// Ranks run at the same time and share the model; their results are added in rank order.
    pub(super) fn compute(
        &mut self,
        model: &Llama,
        corpus: &Corpus,
        order: &SampleOrder,
        positions: &[u64],
    ) -> Result<f32, TrainerError> {
        let batches: Vec<Batch> = positions.chunks(self.batch).map(|positions| batch(corpus, order, positions)).collect();
        let (count, context) = (self.batch, corpus.split().context_length().get() as usize);
        let run = |batch: &Batch, gradients: &mut [f32]| gradient(model, batch, count, context, gradients);
        let mut losses = Vec::with_capacity(batches.len());
        let ranks = 1 + self.others.len();
        if ranks == 1 {
            losses.push(run(&batches[0], &mut self.mean)?);
        } else {
            let vectors = std::iter::once(&mut self.mean).chain(&mut self.others);
            let results: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    batches.iter().zip(vectors).map(|(batch, vector)| scope.spawn(|| run(batch, vector))).collect();
                threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
            });
            for result in results {
                losses.push(result.map_err(|_| TrainerError::Rank)??);
            }
            for other in &self.others {
                self.mean.iter_mut().zip(other).for_each(|(sum, value)| *sum += value);
            }
            self.mean.iter_mut().for_each(|sum| *sum /= ranks as f32);
        }
        Ok(losses.iter().sum::<f32>() / ranks as f32)
    }
}

fn batch(corpus: &Corpus, order: &SampleOrder, positions: &[u64]) -> Batch {
    let (mut inputs, mut targets) = (Vec::new(), Vec::new());
    for position in positions {
        corpus.sample(order.sample(*position), &mut inputs, &mut targets);
    }
    Batch { inputs, targets }
}

fn gradient(model: &Llama, batch: &Batch, count: usize, context: usize, gradients: &mut [f32]) -> Result<f32, ModelError> {
    let loss = model.loss(&batch.inputs, &batch.targets, count, context)?;
    let store = loss.backward()?;
    model.gradients_into(&store, gradients)?;
    Ok(loss.to_scalar()?)
}
