//! Causal self-attention over packed queries, keys and values, with rotary positions.
//!
//! Each head works alone, on copies of its part that lie together. Queries go in blocks that look only at the keys before
//! their end, so that about half of the square of scores is never computed; probabilities are not kept but computed again
//! in the backward pass.

use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor};

use super::Form;
use super::lanes::{dot, exponentials, maximum};
use super::matrix::{Matrix, Product, Threads, multiply};
use super::parallel::{for_each, rows_per_piece};
use super::rotary::{Rotary, turn, turn_back};
use super::slices::{values, with_values};

/// Queries whose scores are computed together.
const QUERY_BLOCK: usize = 64;

/// The division of packed rows into sequences and heads.
#[derive(Debug, Clone)]
pub struct Attention {
    /// Sequences.
    pub batch: usize,
    /// Tokens of a sequence, at most the positions of `rotary`.
    pub sequence: usize,
    /// Heads of a token.
    pub heads: usize,
    /// Turns queries and keys by their position in the sequence.
    pub rotary: Rotary,
}

/// `softmax(q * k^T / sqrt(head))  * v` over the tokens up to and including a query's own.
///
/// `packed` has shape (batch * sequence, 3 * heads * head): all heads' queries of a token, then keys, then values. The
/// result has shape (batch * sequence, heads * head).
///
/// # Errors
/// A shape that does not fit the division, more tokens than positions, or a tensor that the form cannot read.
pub fn causal_attention(form: Form, packed: &Tensor, attention: &Attention) -> Result<Tensor> {
    attention.check(packed.dims2()?)?;
    match form {
        Form::Fused => packed.contiguous()?.apply_op1(attention.clone()),
        Form::Composed => attention.composed(packed),
    }
}

/// Place of queries, keys and values in a packed row.
const QUERY: usize = 0;
const KEY: usize = 1;
const VALUE: usize = 2;

/// Sizes that every step of one operation shares.
#[derive(Clone, Copy)]
struct Sizes {
    sequence: usize,
    heads: usize,
    head: usize,
    width: usize,
    scale: f32,
}

/// One head's queries and keys, turned, and its values: each (sequence, head).
struct Head {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// Cosines and sines, (positions, half of a head) each.
#[derive(Clone, Copy)]
struct Angles<'a> {
    cosines: &'a [f32],
    sines: &'a [f32],
}

impl Attention {
    fn check(&self, (rows, packed): (usize, usize)) -> Result<()> {
        let positions = self.rotary.cosines.dim(0)?;
        let unit = 6 * self.heads;
        if rows != self.batch * self.sequence || packed == 0 || unit == 0 || !packed.is_multiple_of(unit) {
            candle_core::bail!("attention: {rows} rows of {packed} are not {self:?}");
        }
        if self.sequence > positions || self.rotary.cosines.dim(1)? != packed / unit {
            candle_core::bail!("attention: {} tokens do not fit angles of {:?}", self.sequence, self.rotary.cosines.shape());
        }
        Ok(())
    }

    fn sizes(&self, packed: usize) -> Sizes {
        let width = packed / 3;
        let head = width / self.heads;
        Sizes { sequence: self.sequence, heads: self.heads, head, width, scale: (head as f32).sqrt().recip() }
    }

    fn with_angles<R>(&self, compute: impl FnOnce(Angles<'_>) -> R) -> Result<R> {
        let (cosines, sines) = (&self.rotary.cosines, &self.rotary.sines);
        with_values(cosines, |cosines| with_values(sines, |sines| compute(Angles { cosines, sines })))?
    }

    fn composed(&self, packed: &Tensor) -> Result<Tensor> {
        let Sizes { sequence, heads, head, width, scale } = self.sizes(packed.dim(1)?);
        let parts = packed.reshape((self.batch, sequence, 3, heads, head))?;
        let part = |which: usize| parts.narrow(2, which, 1)?.squeeze(2)?.transpose(1, 2)?.contiguous();
        let (queries, keys) = (self.rotary.apply(&part(QUERY)?)?, self.rotary.apply(&part(KEY)?)?);
        let scores = (queries.matmul(&keys.t()?)? * f64::from(scale))?;
        let visible = Tensor::tril2(sequence, DType::U8, packed.device())?.broadcast_as(scores.shape())?;
        let hidden = Tensor::full(f32::NEG_INFINITY, (), packed.device())?.broadcast_as(scores.shape())?;
        let scores = visible.where_cond(&scores, &hidden)?;
        let raised = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
        let probabilities = raised.broadcast_div(&raised.sum_keepdim(D::Minus1)?)?;
        let mixed = probabilities.matmul(&part(VALUE)?)?;
        mixed.transpose(1, 2)?.reshape((self.batch * sequence, width))
    }
}

impl Angles<'_> {
    fn at(&self, position: usize, head: usize) -> (&[f32], &[f32]) {
        let range = position * head / 2..(position + 1) * head / 2;
        (&self.cosines[range.clone()], &self.sines[range])
    }
}

impl Sizes {
    /// Values of one head over the sequence.
    fn area(&self) -> usize {
        self.sequence * self.head
    }

    /// The blocks of queries: (first query, query after the last).
    fn blocks(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.sequence).step_by(QUERY_BLOCK).map(move |start| (start, (start + QUERY_BLOCK).min(self.sequence)))
    }

    /// Scratch for the scores of the largest block.
    fn scores(&self) -> Vec<f32> {
        vec![0.0; QUERY_BLOCK.min(self.sequence) * self.sequence]
    }

    /// Copies one head out of the packed rows. Heads count through the batch: sequence `index / heads`, head `index % heads`.
    fn gather(&self, packed: &[f32], index: usize, angles: Angles<'_>) -> Head {
        let rows = packed.chunks_exact(3 * self.width).skip(index / self.heads * self.sequence).take(self.sequence);
        let column = index % self.heads * self.head;
        let mut head = Head { queries: vec![0.0; self.area()], keys: vec![0.0; self.area()], values: vec![0.0; self.area()] };
        let places = head.queries.chunks_exact_mut(self.head).zip(head.keys.chunks_exact_mut(self.head));
        let places = places.zip(head.values.chunks_exact_mut(self.head));
        for (position, (row, ((query, key), value))) in rows.zip(places).enumerate() {
            let part = |which: usize| &row[which * self.width + column..][..self.head];
            let (cosines, sines) = angles.at(position, self.head);
            turn(query, part(QUERY), cosines, sines);
            turn(key, part(KEY), cosines, sines);
            value.copy_from_slice(part(VALUE));
        }
        head
    }

    /// Rows `start..end` of one head's (sequence, head) values.
    fn block<'a>(&self, values: &'a [f32], start: usize, end: usize) -> Matrix<'a> {
        Matrix::new(&values[start * self.head..], end - start, self.head)
    }

    /// Probabilities of the queries `start..end` over the keys `0..end`, row-major in `scores`; zero beyond a query's own.
    fn probabilities(&self, scores: &mut [f32], head: &Head, (start, end): (usize, usize)) {
        let product = Product { values: &mut *scores, row_stride: end, accumulate: false };
        let (queries, keys) = (self.block(&head.queries, start, end), self.block(&head.keys, 0, end));
        multiply(product, queries, keys.transposed(), self.scale, Threads::Caller);
        for (query, row) in (start..end).zip(scores.chunks_exact_mut(end)) {
            let (visible, hidden) = row.split_at_mut(query + 1);
            let inverse = exponentials(visible, maximum(visible)).recip();
            for value in visible {
                *value *= inverse;
            }
            hidden.fill(0.0);
        }
    }

    fn forward(&self, mixed: &mut [f32], head: &Head) {
        let mut scores = self.scores();
        for (start, end) in self.blocks() {
            self.probabilities(&mut scores, head, (start, end));
            let product = Product { values: &mut mixed[start * self.head..], row_stride: self.head, accumulate: false };
            let probabilities = Matrix::new(&scores, end - start, end);
            multiply(product, probabilities, self.block(&head.values, 0, end), 1.0, Threads::Caller);
        }
    }

    /// Gradients of one head's turned queries, turned keys and values, one after the other in `gradients`. `dy` begins at
    /// the head's first value and has rows of `width`.
    fn backward(&self, gradients: &mut [f32], head: &Head, dy: &[f32]) {
        let (dqueries, rest) = gradients.split_at_mut(self.area());
        let (dkeys, dvalues) = rest.split_at_mut(self.area());
        let (mut scores, mut dscores) = (self.scores(), self.scores());
        for (start, end) in self.blocks() {
            self.probabilities(&mut scores, head, (start, end));
            let probabilities = Matrix::new(&scores, end - start, end);
            let dy = Matrix::with_row_stride(&dy[start * self.width..], end - start, self.head, self.width);
            let sum = |values| Product { values, row_stride: self.head, accumulate: true };
            multiply(sum(&mut *dvalues), probabilities.transposed(), dy, 1.0, Threads::Caller);
            let product = Product { values: &mut dscores, row_stride: end, accumulate: false };
            multiply(product, dy, self.block(&head.values, 0, end).transposed(), 1.0, Threads::Caller);
            self.softmax_gradient(&mut dscores, &scores, (start, end));
            let dscores = Matrix::new(&dscores, end - start, end);
            let queries = self.block(&head.queries, start, end);
            multiply(sum(&mut dqueries[start * self.head..]), dscores, self.block(&head.keys, 0, end), 1.0, Threads::Caller);
            multiply(sum(&mut *dkeys), dscores.transposed(), queries, 1.0, Threads::Caller);
        }
    }

    /// Turns gradients of probabilities into gradients of the products of queries and keys, in place.
    fn softmax_gradient(&self, dscores: &mut [f32], probabilities: &[f32], (start, end): (usize, usize)) {
        let rows = dscores.chunks_exact_mut(end).zip(probabilities.chunks_exact(end));
        for (query, (dscores, probabilities)) in (start..end).zip(rows) {
            let (dscores, hidden) = dscores.split_at_mut(query + 1);
            let mean = dot(dscores, &probabilities[..=query]);
            for (dscore, probability) in dscores.iter_mut().zip(probabilities) {
                *dscore = probability * (*dscore - mean) * self.scale;
            }
            hidden.fill(0.0);
        }
    }

    /// Writes one token's gradients of all heads to its packed row, queries and keys turned back.
    fn scatter(&self, row: &mut [f32], gradients: &[f32], token: usize, angles: Angles<'_>) {
        let position = token % self.sequence;
        let (cosines, sines) = angles.at(position, self.head);
        let first = token / self.sequence * self.heads;
        for (which, part) in row.chunks_exact_mut(self.width).enumerate() {
            for (head, place) in part.chunks_exact_mut(self.head).enumerate() {
                let source = &gradients[((first + head) * 3 + which) * self.area() + position * self.head..][..self.head];
                if which == VALUE {
                    place.copy_from_slice(source);
                } else {
                    turn_back(place, source, cosines, sines);
                }
            }
        }
    }
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "causal-attention"
    }

    fn cpu_fwd(&self, packed: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, packed_width) = layout.shape().dims2()?;
        let sizes = self.sizes(packed_width);
        let packed = values(packed, layout)?;
        let mut by_head = vec![0.0; rows * sizes.width];
        self.with_angles(|angles| {
            for_each(by_head.chunks_mut(sizes.area()).enumerate(), |(index, mixed)| {
                sizes.forward(mixed, &sizes.gather(packed, index, angles));
            });
        })?;
        let mut y = vec![0.0; by_head.len()];
        let piece = rows_per_piece(sizes.width);
        for_each(y.chunks_mut(piece * sizes.width).enumerate(), |(index, rows)| {
            for (token, row) in (index * piece..).zip(rows.chunks_exact_mut(sizes.width)) {
                let (sequence, position) = (token / sizes.sequence, token % sizes.sequence);
                for (head, place) in row.chunks_exact_mut(sizes.head).enumerate() {
                    let start = (sequence * sizes.heads + head) * sizes.area() + position * sizes.head;
                    place.copy_from_slice(&by_head[start..start + sizes.head]);
                }
            }
        });
        Ok((CpuStorage::F32(y), (rows, sizes.width).into()))
    }

    fn bwd(&self, packed: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (rows, packed_width) = packed.dims2()?;
        let sizes = self.sizes(packed_width);
        let dy = dy.contiguous()?;
        let mut by_head = vec![0.0; rows * packed_width];
        let mut gradient = vec![0.0; rows * packed_width];
        self.with_angles(|angles| {
            with_values(packed, |packed| {
                with_values(&dy, |dy| {
                    for_each(by_head.chunks_mut(3 * sizes.area()).enumerate(), |(index, gradients)| {
                        let start = index / sizes.heads * sizes.sequence * sizes.width + index % sizes.heads * sizes.head;
                        sizes.backward(gradients, &sizes.gather(packed, index, angles), &dy[start..]);
                    });
                })
            })?
        })??;
        let piece = rows_per_piece(packed_width);
        self.with_angles(|angles| {
            for_each(gradient.chunks_mut(piece * packed_width).enumerate(), |(index, rows)| {
                for (token, row) in (index * piece..).zip(rows.chunks_exact_mut(packed_width)) {
                    sizes.scatter(row, &by_head, token, angles);
                }
            });
        })?;
        Ok(Some(Tensor::from_vec(gradient, (rows, packed_width), packed.device())?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::agreement::{forms_agree, gradients_match_differences, tensor};
    use super::*;

    fn attention(batch: usize, sequence: usize, heads: usize, head: usize) -> Attention {
        let rotary = Rotary::new(head, sequence + 3, 10_000.0, &Device::Cpu).unwrap();
        Attention { batch, sequence, heads, rotary }
    }

    #[test]
    fn both_forms_agree_and_gradients_match_finite_differences() {
        let attention = attention(2, 7, 3, 4);
        let inputs = [tensor(&[14, 36], 7)];
        let operation = |form: Form, inputs: &[Tensor]| causal_attention(form, &inputs[0], &attention);
        forms_agree(&inputs, operation);
        gradients_match_differences(&inputs, operation);
    }

    #[test]
    fn sequences_of_several_blocks_with_a_remainder_agree() {
        let attention = attention(1, 2 * QUERY_BLOCK + 5, 2, 6);
        let inputs = [tensor(&[attention.sequence, 36], 8)];
        forms_agree(&inputs, |form, inputs| causal_attention(form, &inputs[0], &attention));
    }

    #[test]
    fn a_later_token_changes_nothing_before_it() {
        let attention = attention(1, 9, 2, 4);
        let mut rows = tensor(&[9, 24], 9).to_vec2::<f32>().unwrap();
        let attend = |rows: &Vec<Vec<f32>>| {
            let packed = Tensor::new(rows.clone(), &Device::Cpu).unwrap();
            causal_attention(Form::Fused, &packed, &attention).unwrap().to_vec2::<f32>().unwrap()
        };
        let before = attend(&rows);
        rows[5].fill(3.0);
        let after = attend(&rows);
        assert_eq!(before[..5], after[..5]);
        assert_ne!(before[5], after[5]);
    }

    #[test]
    fn rows_that_do_not_fit_the_division_are_refused() {
        let attention = attention(2, 7, 3, 4);
        for shape in [[13, 36], [14, 30], [14, 35]] {
            assert!(causal_attention(Form::Fused, &tensor(&shape, 7), &attention).is_err());
        }
        let longer = Attention { sequence: 11, batch: 1, ..attention };
        assert!(causal_attention(Form::Fused, &tensor(&[11, 36], 7), &longer).is_err());
    }
}
