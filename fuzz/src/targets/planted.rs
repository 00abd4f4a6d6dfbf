//! A bug on purpose: behind four bytes that have to be right one after the other.

use crate::Target;

pub(super) const PLANTED: Target = Target { name: "planted", run, seeds: || vec![b"....".to_vec()] };

fn run(bytes: &[u8]) {
    let secret = *b"REEF";
    for (position, wanted) in secret.iter().enumerate() {
        if std::hint::black_box(bytes.get(position)) != Some(wanted) {
            return;
        }
    }
    panic!("the planted bug was found");
}
