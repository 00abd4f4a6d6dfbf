//! How long the members of an attempt are waited for, by a clock that tests turn.

use tokio::time::sleep;

use super::*;
use crate::v1::{Begin, Contribution, EpochRecord, Member};

const PATIENCE: Duration = Duration::from_secs(10);
/// Blocks of each of the two shards.
const BLOCKS: usize = 4;

/// The attempt of slot 0 with a contributor, 1, and with 2: a mean, of which 0 and 2 reduce a half each.
fn attempt() -> Arc<Exchange> {
    let elements = 2 * BLOCKS * BLOCK_BYTES / 4;
    let members = [0, 1, 2].map(|slot| Member { slot, contributor: slot == 1, ..Member::default() }).to_vec();
    let contributions = [0, 1, 2].map(|slot| Contribution { slot, weight: 1, ..Contribution::default() }).to_vec();
    let record = Some(EpochRecord { term: 1, epoch: 1, members, ..EpochRecord::default() });
    let operation = Some(operation::ends_round(1, 1, elements as u64));
    let begin = Begin { operation, number: 1, record, contributions, ..Begin::default() };
    let plan = Plan::new(&begin, 0).unwrap();
    Exchange::new(plan, vec![0; elements * 4].into(), None, Arc::new(Memory::new(elements * 4))).unwrap()
}

fn begins(exchange: &Arc<Exchange>, from: u32, kind: Kind, block: usize) -> Incoming {
    exchange.receive(&Sender { slot: from, name: None }, kind, block as u32, BLOCK_BYTES).unwrap()
}

/// A whole block of zeros comes.
fn gives(exchange: &Arc<Exchange>, from: u32, kind: Kind, block: usize) {
    let mut incoming = begins(exchange, from, kind, block);
    incoming.take(vec![0; BLOCK_BYTES].into());
    incoming.finish(None).unwrap();
}

/// Whom the attempt names, and after how long; none where everything comes.
async fn blamed(exchange: &Exchange) -> Option<(u32, Duration)> {
    let begun = Instant::now();
    let failure = exchange.complete(PATIENCE).await.err()?;
    assert_eq!(failure.reason, AbortReason::NoProgress);
    Some((failure.culprit, begun.elapsed()))
}

#[tokio::test(start_paused = true)]
async fn neither_bytes_nor_what_others_give_make_a_silent_member_wait_longer() {
    let exchange = attempt();
    let others = async {
        let mut drip = begins(&exchange, 1, Kind::Contribution, 0);
        for block in 0..BLOCKS {
            sleep(PATIENCE / 2).await;
            drip.take(Bytes::from_static(&[0]));
            gives(&exchange, 2, Kind::Contribution, block);
        }
    };
    let (blamed, ()) = tokio::join!(blamed(&exchange), others);
    assert_eq!(blamed, Some((1, PATIENCE)));
}

#[tokio::test(start_paused = true)]
async fn who_gives_a_block_in_time_may_take_long_for_all_and_who_waits_for_it_longer_for_the_first() {
    let exchange = attempt();
    let others = async {
        (0..BLOCKS).for_each(|block| gives(&exchange, 2, Kind::Contribution, block));
        for block in 0..BLOCKS {
            sleep(PATIENCE * 9 / 10).await;
            gives(&exchange, 1, Kind::Contribution, block);
        }
    };
    // It has each copy of the contributor a little later.
    let results = async {
        sleep(PATIENCE / 5).await;
        for block in 0..BLOCKS {
            sleep(PATIENCE * 9 / 10).await;
            gives(&exchange, 2, Kind::Result, BLOCKS + block);
        }
    };
    let (blamed, (), ()) = tokio::join!(blamed(&exchange), others, results);
    assert_eq!(blamed, None);
}

#[tokio::test(start_paused = true)]
async fn who_reduces_is_blamed_after_those_for_whose_copies_it_waits() {
    let exchange = attempt();
    for block in 0..BLOCKS {
        gives(&exchange, 1, Kind::Contribution, block);
        gives(&exchange, 2, Kind::Contribution, block);
    }
    assert_eq!(blamed(&exchange).await, Some((2, 2 * PATIENCE)));
}

/// One of several contributors that give theirs in different orders has all the time it wants, and no block is reduced.
#[tokio::test(start_paused = true)]
async fn a_contributor_that_gives_its_last_copies_first_is_waited_for_as_if_it_gave_none() {
    let exchange = attempt();
    let others = async {
        (0..BLOCKS).for_each(|block| gives(&exchange, 2, Kind::Contribution, block));
        for block in (0..BLOCKS).rev() {
            sleep(PATIENCE * 9 / 10).await;
            gives(&exchange, 1, Kind::Contribution, block);
        }
    };
    let blamed = tokio::select! {
        blamed = blamed(&exchange) => blamed,
        () = others => None,
    };
    assert_eq!(blamed, Some((1, PATIENCE)));
}

#[tokio::test(start_paused = true)]
async fn copies_that_overtake_each_other_on_several_channels_are_in_time_with_the_last_of_them() {
    let exchange = attempt();
    let others = async {
        (0..BLOCKS).for_each(|block| gives(&exchange, 2, Kind::Contribution, block));
        for blocks in [[1, 0], [3, 2]] {
            for block in blocks {
                sleep(PATIENCE * 4 / 10).await;
                gives(&exchange, 1, Kind::Contribution, block);
            }
        }
        (0..BLOCKS).for_each(|block| gives(&exchange, 2, Kind::Result, BLOCKS + block));
    };
    let (blamed, ()) = tokio::join!(blamed(&exchange), others);
    assert_eq!(blamed, None);
}
