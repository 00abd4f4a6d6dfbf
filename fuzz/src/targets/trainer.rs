//! Calls over the Unix socket: a trainer's, with what an operation may be and where its parts lie, and a human's word.

use atoll_collective::operation::{self, Key, LONGEST_TAG, MOST_ELEMENTS};
use atoll_collective::v1::{
    AttachRequest, BeginRoundRequest, FinishRequest, ForceRequest, Member, OperateRequest, PulseRequest, StandRequest,
};
use prost::Message;

use crate::Target;
use crate::input::Input;

/// One call.
pub(super) const CALLS: Target = Target { name: "trainer", run, seeds };

fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    match input.byte() % 7 {
        0 => same::<AttachRequest>(input.0),
        1 => same::<BeginRoundRequest>(input.0),
        2 => same::<FinishRequest>(input.0),
        3 => same::<PulseRequest>(input.0),
        5 => same::<ForceRequest>(input.0),
        6 => same::<StandRequest>(input.0),
        _ => {
            let Ok(request) = OperateRequest::decode(input.0) else { return };
            let Some(operation) = request.operation else { return };
            if operation::check(&operation).is_ok() {
                let key = operation::key(Some(&operation));
                assert!(operation.elements <= MOST_ELEMENTS && key.tag.len() <= LONGEST_TAG && key.round > 0);
                assert_eq!(Key::try_from(String::from(key.clone())), Ok(key), "what is stored is read again");
            }
        }
    }
}

/// What decodes is encoded to something that decodes to the same.
fn same<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(message) = M::decode(bytes) {
        assert_eq!(M::decode(message.encode_to_vec().as_slice()), Ok(message));
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let seed = |kind: u8, message: Vec<u8>| [&[kind][..], &message].concat();
    let attach =
        AttachRequest { run: "run".into(), incarnation: 3, protocol_low: 1, protocol_high: 1, ranks: 1, ..Default::default() };
    let arrive = BeginRoundRequest { incarnation: 3, round: 1, samples_wanted: 7, ..Default::default() };
    let operate = OperateRequest { operation: Some(operation::ends_round(1, 1, 8)), weight: 1, ..Default::default() };
    let force = ForceRequest { observed_term: 3, survivors: vec![Member { worker: "w0".into(), ..Member::default() }] };
    vec![
        seed(0, attach.encode_to_vec()),
        seed(1, arrive.encode_to_vec()),
        seed(2, FinishRequest { incarnation: 3, rank: 0 }.encode_to_vec()),
        seed(3, PulseRequest { incarnation: 3, rank: 1 }.encode_to_vec()),
        seed(4, operate.encode_to_vec()),
        seed(5, force.encode_to_vec()),
        seed(6, StandRequest {}.encode_to_vec()),
    ]
}
