//! Values as they travel: blocks of every codec, and pairs of index and value.

use atoll_collective::codec::{Codec, Pairs, Precision, Signs, Sparse};

use crate::Target;
use crate::input::Input;

/// Blocks of one vector.
pub(super) const BLOCKS: Target = Target { name: "blocks", run: blocks, seeds: block_seeds };
/// Sparse and sign payloads.
pub(super) const PAIRS: Target = Target { name: "pairs", run: pairs, seeds: pair_seeds };

const CODECS: [Codec; 4] = [Codec::F32, Codec::Bf16, Codec::UInt8, Codec::UInt4];

fn blocks(bytes: &[u8]) {
    let mut input = Input(bytes);
    let codec = CODECS[usize::from(input.byte()) % CODECS.len()];
    let (weight, elements) = (u32::from(input.byte()), usize::from(input.short()) % 4096);
    let mut values = vec![0.5; elements];
    let decoded = codec.decode(input.0, &mut values);
    if decoded.is_ok() {
        assert_eq!(input.0.len(), codec.encoded_len(elements));
        assert!(values.iter().all(|value| value.is_finite()), "what decodes is finite");
    }
    let mut sum = vec![0.25; elements];
    let added = codec.accumulate(input.0, weight, &mut sum);
    assert_eq!(added.is_ok(), decoded.is_ok(), "one judgement of the same bytes");
    let mut residual = vec![0.125; elements];
    let given = vec![1.5; elements];
    let kept = codec.residual(&given, input.0, &mut residual);
    if kept.is_err() {
        assert!(residual.iter().all(|value| value.to_bits() == 0.125f32.to_bits()), "refused bytes change no residual");
    }
}

fn pairs(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (form, dense) = (input.byte(), u32::from_le_bytes(input.array()) as usize);
    let ascending = |indices: &[u32], values: &[f32]| {
        assert!(indices.is_sorted_by(|one, next| one < next));
        assert!(indices.iter().all(|index| (*index as usize) < dense));
        assert!(values.len() == indices.len() && values.iter().all(|value| value.is_finite()));
    };
    let precision = [Precision::F32, Precision::Bf16][usize::from(form % 2)];
    let mut again = Vec::new();
    if form < 128 {
        let sparse = Sparse::new(dense, precision).expect("2^32 elements at most");
        let decoded = sparse.decode(input.0);
        judged(Pairs::Sparse(sparse), input.0, decoded.is_ok());
        let Ok((indices, values)) = decoded else { return };
        ascending(&indices, &values);
        sparse.encode(&indices, &values, &mut again).expect("what was decoded");
    } else {
        let signs = Signs::new(dense).expect("2^32 elements at most");
        let decoded = signs.decode(input.0);
        judged(Pairs::Signs(signs), input.0, decoded.is_ok());
        let Ok((indices, values)) = decoded else { return };
        ascending(&indices, &values);
        signs.encode(&indices, &values, &mut again).expect("what was decoded");
    }
    assert_eq!(again, input.0, "one payload for the same pairs");
}

/// What is judged alone, without being kept, is judged as what is decoded.
fn judged(pairs: Pairs, bytes: &[u8], decodes: bool) {
    assert_eq!(pairs.check(bytes).is_ok(), decodes);
    assert!(!decodes || pairs.check_length(bytes.len()).is_ok());
}

fn block_seeds() -> Vec<Vec<u8>> {
    let values: Vec<f32> = (0..1030).map(|index| (index as f32 - 500.0) / 7.0).collect();
    let seed = |(index, codec): (usize, Codec)| {
        let elements = if codec.grain() == 1 { 5 } else { values.len() };
        let mut coded = vec![0; codec.encoded_len(elements)];
        codec.encode(&values[..elements], &mut coded).expect("finite values");
        [&[index as u8, 2][..], &(elements as u16).to_le_bytes(), &coded].concat()
    };
    CODECS.into_iter().enumerate().map(seed).collect()
}

fn pair_seeds() -> Vec<Vec<u8>> {
    let (indices, values) = ([1, 258, 4000], [1.0, -2.0, 0.5]);
    let mut seeds = Vec::new();
    for dense in [4096u32, 1 << 20] {
        for (form, precision) in [Precision::F32, Precision::Bf16].into_iter().enumerate() {
            let mut seed = [&[form as u8][..], &dense.to_le_bytes()].concat();
            Sparse::new(dense as usize, precision).expect("small").encode(&indices, &values, &mut seed).expect("good pairs");
            seeds.push(seed);
        }
        let mut seed = [&[128][..], &dense.to_le_bytes()].concat();
        Signs::new(dense as usize).expect("small").encode(&indices, &values, &mut seed).expect("good pairs");
        seeds.push(seed);
    }
    seeds
}
