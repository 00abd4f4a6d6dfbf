//! Reports to the hub. Whether it hears them makes no difference to the training.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::hub::Hub;
use super::patience::Patience;
use super::untold::Untold;
use crate::report::News;

/// Least time between two reports, and the longest.
const BETWEEN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// How long the last report may take.
const LAST: Duration = Duration::from_secs(3);

/// Tells the hub what `news` brings, until nobody brings any; what it wishes for goes to `wishes`.
pub(super) async fn run(mut hub: Hub, mut news: mpsc::UnboundedReceiver<News>, wishes: mpsc::Sender<u64>) {
    let mut untold = Untold::default();
    let mut patience = Patience::default();
    let mut told = Instant::now();
    loop {
        let next = told + if untold.is_new() { BETWEEN.0 } else { BETWEEN.1 };
        tokio::select! {
            biased;
            heard = news.recv() => match heard {
                Some(heard) => untold.hear(heard),
                None => break,
            },
            () = tokio::time::sleep_until(next) => {
                match tell(&mut hub, &mut untold).await {
                    Ok(wish) => {
                        patience = Patience::default();
                        if let Some(round) = wish {
                            let _full_of_older_ones = wishes.try_send(round);
                        }
                    }
                    Err(why) => patience.wait("the hub does not take reports", &why).await,
                }
                told = Instant::now();
            }
        }
    }
    let last = async { while untold.is_new() && tell(&mut hub, &mut untold).await.is_ok() {} };
    let _told_or_late = tokio::time::timeout(LAST, last).await;
}

/// Tells what the hub does not know; the round of which it wants a checkpoint.
async fn tell(hub: &mut Hub, untold: &mut Untold) -> Result<Option<u64>, String> {
    let report = untold.report(&hub.run, &hub.me);
    let reply = hub.report(report.clone()).await.map_err(|status| format!("{}: {}", status.code(), status.message()))?;
    untold.told(&report);
    Ok(reply.keep_round)
}
