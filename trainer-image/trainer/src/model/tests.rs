//! The whole model: its gradients, its two forms, and a plain reference in f64.

#![allow(clippy::float_cmp)] // values that go in and out unchanged are exact

use super::*;

/// The lab model of the examples.
pub(super) fn lab() -> Config {
    Config {
        layers: 2,
        hidden_size: 64,
        heads: 4,
        intermediate_size: 192,
        context_length: 64,
        vocabulary_size: 128,
        rms_epsilon: Config::RMS_EPSILON,
        rope_theta: Config::ROPE_THETA,
    }
}

fn tokens(count: usize, vocabulary: u32) -> Vec<u32> {
    (0..count as u32).map(|i| i.wrapping_mul(2_654_435_761) >> 7).map(|token| token % vocabulary).collect()
}

fn small() -> Llama {
    Llama::new(Config { vocabulary_size: 37, ..lab() }, &Device::Cpu, [3; 32]).unwrap()
}

fn gradients(model: &Llama, inputs: &[u32], targets: &[u32], batch: usize) -> Vec<f32> {
    let loss = model.loss(inputs, targets, batch, inputs.len() / batch).unwrap();
    let mut flat = vec![0.0; model.config.parameters()];
    model.gradients_into(&loss.backward().unwrap(), &mut flat).unwrap();
    flat
}

fn composed(model: &Llama) -> Llama {
    Llama::assemble(model.config.clone(), &model.device, model.parameters.clone(), Form::Composed).unwrap()
}

#[test]
fn every_parameter_has_a_gradient() {
    for model in [small(), composed(&small())] {
        let (inputs, targets) = (tokens(48, 37), tokens(49, 37));
        let loss = model.loss(&inputs, &targets[1..], 2, 24).unwrap();
        let gradients = loss.backward().unwrap();
        for (name, variable) in model.parameters() {
            let gradient = gradients.get(variable).unwrap_or_else(|| panic!("{name} has no gradient"));
            assert_eq!(gradient.dims(), variable.dims());
            let size = gradient.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(size > 0.0, "the gradient of {name} is zero");
        }
    }
}

#[test]
fn both_forms_give_the_same_loss_and_gradients() {
    let fused = small();
    let composed = composed(&fused);
    let (inputs, targets) = (tokens(2 * 64, 37), tokens(2 * 64 + 1, 37));
    let loss = |model: &Llama| model.loss_value(&inputs, &targets[1..], 2, 64).unwrap();
    assert!((loss(&fused) - loss(&composed)).abs() < 1e-5);
    let fused = gradients(&fused, &inputs, &targets[1..], 2);
    let composed = gradients(&composed, &inputs, &targets[1..], 2);
    assert!(fused.iter().zip(&composed).all(|(fused, composed)| (fused - composed).abs() < 1e-5));
}

#[test]
fn threads_that_share_a_model_get_the_bits_of_a_lone_thread() {
    let model = small();
    let (inputs, targets) = (tokens(96, 37), tokens(97, 37));
    let alone = gradients(&model, &inputs, &targets[1..], 2);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(|| gradients(&model, &inputs, &targets[1..], 2))).collect();
        for thread in threads {
            assert!(thread.join().unwrap().iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
    });
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    let model = Llama::new(lab(), &Device::Cpu, [4; 32]).unwrap();
    let (inputs, targets) = (tokens(8 * 64, 128), tokens(8 * 64 + 1, 128));
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let flat = pool.install(|| gradients(&model, &inputs, &targets[1..], 8));
        flat.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let alone = with(1);
    for threads in [2, 3, 7] {
        assert!(with(threads) == alone, "{threads} threads give other bits than one");
    }
}

#[test]
fn the_same_seed_gives_the_same_bits_and_another_seed_others() {
    let flat = |seed| {
        let model = Llama::new(lab(), &Device::Cpu, [seed; 32]).unwrap();
        let mut flat = vec![0.0; 115_008];
        model.flatten_into(&mut flat).unwrap();
        flat.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    assert_eq!(flat(1), flat(1));
    assert_ne!(flat(1), flat(2));
}

#[test]
fn a_flat_vector_goes_in_and_comes_out_in_parameter_order() {
    let model = small();
    let count = model.config.parameters();
    let numbers: Vec<f32> = (0..count).map(|i| i as f32).collect();
    model.load_from(&numbers).unwrap();
    let mut back = vec![0.0; count];
    model.flatten_into(&mut back).unwrap();
    assert_eq!(numbers, back);
    let first_norm = 37 * 64;
    assert_eq!(model.parameters()[1].1.get(2).unwrap().to_scalar::<f32>().unwrap(), (first_norm + 2) as f32);
    assert!(matches!(model.load_from(&numbers[1..]), Err(ModelError::Length { .. })));

    model.update(|range, values| assert_eq!(values, &numbers[range])).unwrap();
}

#[test]
fn weights_changed_in_place_are_the_weights_that_both_passes_see() {
    let model = small();
    let (inputs, targets) = (tokens(24, 37), tokens(25, 37));
    model.update(|_, values| values.fill(0.0)).unwrap();
    let expected = (37.0_f32).ln();
    let tracked = model.loss(&inputs, &targets[1..], 1, 24).unwrap().to_scalar::<f32>().unwrap();
    assert!((tracked - expected).abs() < 1e-6);
    assert!((model.loss_value(&inputs, &targets[1..], 1, 24).unwrap() - expected).abs() < 1e-6);
}

#[test]
fn tokens_that_do_not_fit_are_refused_with_the_facts() {
    let model = small();
    assert!(matches!(model.logits(&[], 0, 5), Err(ModelError::Shape { .. })));
    assert!(matches!(model.logits(&[1; 7], 2, 4), Err(ModelError::Shape { tokens: 7, .. })));
    assert!(matches!(model.logits(&[1; 65], 1, 65), Err(ModelError::Shape { context: 64, .. })));
    assert!(matches!(model.logits(&[1, 37], 1, 2), Err(ModelError::Token { token: 37, position: 1, vocabulary: 37 })));
    assert!(matches!(model.loss(&[1, 2], &[1, 99], 1, 2), Err(ModelError::Token { token: 99, .. })));
}

#[test]
fn logits_are_those_of_a_plain_reference_in_f64() {
    let model = small();
    // Larger weights than the first ones, so that attention is far from uniform.
    model.update(|_, values| values.iter_mut().for_each(|value| *value *= 4.0)).unwrap();
    let inputs = tokens(11, 37);
    let logits = model.logits(&inputs, 1, 11).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let expected = reference::logits(&model, &inputs);
    let largest = expected.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    for (logit, expected) in logits.iter().zip(&expected) {
        assert!((f64::from(*logit) - expected).abs() < 1e-5 * largest.max(1.0), "{logit} against {expected}");
    }
}

/// The model written with loops over single numbers, from the formulas of the papers.
mod reference {
    use super::*;

    type Rows = Vec<Vec<f64>>;

    fn matrix(tensor: &Tensor) -> Rows {
        let rows = if tensor.rank() == 1 { tensor.unsqueeze(0).unwrap() } else { tensor.clone() };
        let rows = rows.to_vec2::<f32>().unwrap();
        rows.into_iter().map(|row| row.into_iter().map(f64::from).collect()).collect()
    }

    fn project(x: &Rows, weight: &Rows) -> Rows {
        let dot = |row: &[f64], weight: &[f64]| row.iter().zip(weight).map(|(x, w)| x * w).sum();
        x.iter().map(|row| weight.iter().map(|weight| dot(row, weight)).collect()).collect()
    }

    fn norm(x: &Rows, weight: &Rows, epsilon: f64) -> Rows {
        let norm_row = |row: &Vec<f64>| {
            let root = (row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64 + epsilon).sqrt();
            row.iter().zip(&weight[0]).map(|(x, w)| x / root * w).collect()
        };
        x.iter().map(norm_row).collect()
    }

    /// Complex multiplication of (value i, value i + half) by a unit vector.
    fn turned(values: &[f64], position: usize, theta: f64) -> Vec<f64> {
        let half = values.len() / 2;
        let turn = |i: usize| {
            let pair = i % half;
            let angle = position as f64 / theta.powf(pair as f64 / half as f64);
            let (real, imaginary) = (values[pair], values[pair + half]);
            if i < half { real * angle.cos() - imaginary * angle.sin() } else { real * angle.sin() + imaginary * angle.cos() }
        };
        (0..values.len()).map(turn).collect()
    }

    fn attend(packed: &Rows, config: &Config) -> Rows {
        let (width, head) = (config.hidden_size, config.head_size());
        let part = |token: usize, which: usize, index: usize| &packed[token][which * width + index * head..][..head];
        let angle = |token, which, index| turned(part(token, which, index), token, config.rope_theta);
        let mut mixed = vec![vec![0.0; width]; packed.len()];
        for (query, mixed) in mixed.iter_mut().enumerate() {
            for index in 0..config.heads {
                let turned_query = angle(query, 0, index);
                let score = |key| {
                    let product: f64 = turned_query.iter().zip(angle(key, 1, index)).map(|(q, k)| q * k).sum();
                    (product / (head as f64).sqrt()).exp()
                };
                let scores: Vec<f64> = (0..=query).map(score).collect();
                let total: f64 = scores.iter().sum();
                for (key, score) in scores.iter().enumerate() {
                    for (place, value) in mixed[index * head..].iter_mut().zip(part(key, 2, index)) {
                        *place += score / total * value;
                    }
                }
            }
        }
        mixed
    }

    fn gate(packed: &Rows) -> Rows {
        let gate_row = |row: &Vec<f64>| {
            let (gates, ups) = row.split_at(row.len() / 2);
            gates.iter().zip(ups).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect()
        };
        packed.iter().map(gate_row).collect()
    }

    fn add(x: &mut Rows, more: &Rows) {
        for (x, more) in x.iter_mut().flatten().zip(more.iter().flatten()) {
            *x += more;
        }
    }

    pub(super) fn logits(model: &Llama, inputs: &[u32]) -> Vec<f64> {
        let (weights, epsilon) = (&model.untracked, model.config.rms_epsilon);
        let embedding = matrix(&weights.embedding);
        let mut x: Rows = inputs.iter().map(|token| embedding[*token as usize].clone()).collect();
        for layer in &weights.layers {
            let packed = project(&norm(&x, &matrix(&layer.attention_norm), epsilon), &matrix(&layer.query_key_value));
            add(&mut x, &project(&attend(&packed, &model.config), &matrix(&layer.attention_output)));
            let packed = project(&norm(&x, &matrix(&layer.feed_forward_norm), epsilon), &matrix(&layer.gate_up));
            add(&mut x, &project(&gate(&packed), &matrix(&layer.down)));
        }
        project(&norm(&x, &matrix(&weights.norm), epsilon), &embedding).into_iter().flatten().collect()
    }
}
