//! The arbiters alone, under every kind of trouble that messages can have.
#![allow(missing_docs)]

use atoll_collective::rules::Rules;
use atoll_simulation::arbiters;

#[test]
fn one_record_is_granted_in_a_place_and_each_follows_the_one_before() {
    let length = |seed| arbiters::run(seed, Rules::default()).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    let lengths: Vec<_> = (0..1_000).map(length).collect();
    let (longest, all) = (lengths.iter().max().unwrap(), lengths.iter().sum::<usize>());
    assert!(*longest > 10 && all > 1_000 * 4, "the worlds must get somewhere: {longest}, {all}");
}
