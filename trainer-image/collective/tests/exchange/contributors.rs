//! Contributors that lie to each peer by itself, or do nothing: found out by the peers, and left out by the coordinator.

use atoll_collective::coordinator::{Action, Coordinator, Event, Settings};
use atoll_collective::v1::{Arrive, Enter, Hello, Prepared, Ruling, coordinator_message, peer_message};
use atoll_collective::{Notice, chain};

use super::*;

/// Three peers of which the first is a contributor.
async fn mixed() -> Vec<Peer> {
    let mut peers = peers(3).await;
    peers[0].member.contributor = true;
    peers
}

/// An all-gather of bytes.
fn gather() -> Operation {
    let mut operation = asked(OperationKind::AllGather, 0, 0);
    operation.set_data_type(DataType::U8);
    operation
}

/// What a peer does in an attempt, with room for so many bytes of result.
fn exchange(peer: &Peer, begin: &Begin, input: &[u8], room: usize) -> Result<Arc<Exchange>, Failure> {
    let plan = Plan::new(begin, peer.member.slot).unwrap();
    let exchange =
        Exchange::new(plan, Bytes::copy_from_slice(input), None, Arc::new(Memory(Arc::new(Mutex::new(vec![0; room])))))?;
    peer.operations.begin(Arc::clone(&exchange));
    Ok(exchange)
}

#[tokio::test]
async fn peers_without_room_for_what_a_contributor_declares_blame_it_and_without_it_they_gather() {
    let peers = mixed().await;
    let given: Vec<Given> = [1 << 20, 8, 8].map(|length| (vec![7; length], 1)).to_vec();
    let begin = begin(&peers, &gather(), 1, &given);
    for peer in &peers[1..] {
        let failure = exchange(peer, &begin, &[7; 8], 64).err().unwrap();
        assert_eq!((failure.reason, failure.culprit), (AbortReason::Mismatch, 0), "{}", failure.detail);
        let own = exchange(peer, &begin, &[7; 8], 15).err().unwrap();
        assert_eq!(
            (own.reason, own.culprit),
            (AbortReason::Mismatch, peer.member.slot),
            "its room is too little for the others'"
        );
    }
    agreed(&run(&peers[1..], &gather(), 2, &given[1..], 64).await);
}

#[tokio::test]
async fn a_peer_whose_lane_is_never_answered_is_waited_for_no_longer_than_for_a_block() {
    let trusted = peer(0, "secret", None).await;
    // Connections are made by the system, and nobody takes them.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let member = Member { slot: 1, address, contributor: true, ..trusted.member.clone() };
    let silent = Peer { member, lanes: trusted.lanes.clone(), operations: Operations::default() };
    let given: Vec<Given> = (0..2).map(|slot| (bytes(&values(slot, 6000)), 1)).collect();
    let all = [trusted, silent];
    let exchange =
        exchange(&all[0], &begin(&all, &asked(OperationKind::AllReduce, 6000, 0), 1, &given), &given[0].0, 24_000).unwrap();
    // It gave all that the result needs.
    let mut copy = exchange.receive(&Sender { slot: 1, name: None }, Copy, 0, 24_000).unwrap();
    copy.take(given[1].0.clone().into());
    copy.finish(None).unwrap();
    let moving = exchange.run(all[0].lanes.clone(), Duration::from_millis(300));
    let failure = tokio::time::timeout(PATIENCE, moving).await.unwrap().unwrap_err();
    assert_eq!((failure.reason, failure.culprit), (AbortReason::NoProgress, 1), "{}", failure.detail);
}

/// The coordinator of these peers, who train in the first round; their arbiter grants everything.
struct Run(Coordinator);

impl Run {
    fn of(peers: &[Peer]) -> Self {
        let settings = Settings { liveness: 2_000, round_timeout: 60_000, ..Settings::of("run", 2) };
        let mut run = Self(Coordinator::new(settings, EpochRecord { term: 1, ..EpochRecord::default() }, 0));
        for peer in peers {
            let (state_root, state_shape) = (vec![7; chain::HASH], vec![1; chain::HASH]);
            let arrive = Some(Arrive { round: 1, state_root, state_shape, attempt: 1, ..Arrive::default() });
            let hello = Hello { run: "run".into(), member: Some(peer.member.clone()), arrive, ..Hello::default() };
            run.tick(Event::Connected(Box::new(hello)));
        }
        run
    }

    fn tick(&mut self, event: Event) -> Vec<Action> {
        let (mut waiting, mut done) = (self.0.tick(event, 0), Vec::new());
        while !waiting.is_empty() {
            let action = waiting.remove(0);
            if let Action::Propose(record) = &action {
                let ruling = Ruling { granted: true, record: Some(record.clone()), ..Ruling::default() };
                waiting.extend(self.0.tick(Event::Ruled(ruling), 0));
            }
            done.push(action);
        }
        done
    }

    fn hears(&mut self, slot: u32, body: peer_message::Body) -> Vec<Action> {
        self.tick(Event::Message { slot, incarnation: 1, learned: 0, body: Box::new(body) })
    }

    fn enters(&mut self, slot: u32, elements: u64) -> Vec<Action> {
        let contribution = Some(Contribution { slot, elements, ..Contribution::default() });
        self.hears(slot, peer_message::Body::Enter(Enter { operation: Some(gather()), contribution, bandwidth: 0 }))
    }

    fn prepared(&mut self, slot: u32, begin: &Begin, hash: [u8; 32]) -> Vec<Action> {
        let epoch = begin.record.as_ref().unwrap().epoch;
        self.hears(slot, peer_message::Body::Prepared(Prepared { epoch, key: gather().key, result_hash: hash.to_vec() }))
    }
}

/// The last attempt that is begun.
fn begun(actions: &[Action]) -> Begin {
    let begin = |action: &Action| match action {
        Action::Send { message, .. } => match &message.body {
            Some(coordinator_message::Body::Begin(begin)) => Some(begin.clone()),
            _ => None,
        },
        _ => None,
    };
    actions.iter().filter_map(begin).next_back().unwrap()
}

/// What the trusted peers make of an attempt.
async fn results(peers: &[Peer], begin: &Begin) -> Vec<[u8; 32]> {
    let moving = peers[1..]
        .iter()
        .map(|peer| exchange(peer, begin, &[peer.member.slot as u8; 8], 24).unwrap().run(peer.lanes.clone(), PATIENCE));
    futures::future::join_all(moving).await.into_iter().map(Result::unwrap).collect()
}

#[tokio::test]
async fn a_contributor_that_gives_each_peer_another_part_of_a_gathering_is_left_out_and_the_others_agree() {
    let peers = mixed().await;
    let mut run = Run::of(&peers);
    let begin = (0..3).map(|slot| run.enters(slot, 8)).last().map(|done| begun(&done)).unwrap();
    for to in &peers[1..] {
        let part = vec![to.member.slot as u8; 8];
        let sum = framing::sum_of_result(blake3::hash(&part).as_bytes());
        let lane = peers[0].lanes.lane(&to.member).await.unwrap();
        let header = Header { term: 1, number: begin.number, block: 0, kind: Kind::Result };
        lane.channels()[0].send(header, part.into(), Some(sum)).await.unwrap();
    }
    let told = results(&peers, &begin).await;
    assert_ne!(told[0], told[1]);
    // It agrees with one of them.
    let mut done = run.prepared(0, &begin, told[0]);
    for (slot, hash) in [1, 2].into_iter().zip(told) {
        done.extend(run.prepared(slot, &begin, hash));
    }
    let evicted = done.iter().filter_map(|action| match action {
        Action::Report(Notice::Evicted { slot, reason, .. }) => Some((*slot, *reason)),
        _ => None,
    });
    assert_eq!(evicted.collect::<Vec<_>>(), [(0, AbortReason::Disagreement)]);
    let again = begun(&done);
    assert_eq!(again.contributions.iter().map(|given| given.slot).collect::<Vec<_>>(), [1, 2]);
    let agreed = results(&peers, &again).await;
    let commits = |action: &Action| matches!(action, Action::Send { message, .. } if matches!(message.body, Some(coordinator_message::Body::Commit(_))));
    let done: Vec<Action> = [1, 2].into_iter().zip(agreed).flat_map(|(slot, hash)| run.prepared(slot, &again, hash)).collect();
    assert_eq!(done.into_iter().filter(commits).count(), 2);
}
