use super::ground::{cut, local, on_every_store, place, published, written};
use atoll_checkpoint::error::Kind;
use atoll_checkpoint::publish::{Claim, PublishError};
use atoll_checkpoint::{Folder, Manifest, Place};

async fn superseded(folder: &Folder, manifest: &Manifest) -> String {
    let refused = folder.publish(manifest).await.unwrap_err();
    assert!(matches!(refused, PublishError::Superseded { .. }), "{refused}");
    refused.to_string()
}

#[tokio::test]
async fn an_older_term_epoch_or_round_no_longer_publishes() {
    on_every_store(async |ground| {
        let newest = Place { lineage: 1, term: 3, epoch: 5, round: 40 };
        published(&ground.folder, newest, &[cut("parameters", 1, 10)]).await;
        let older =
            [Place { term: 2, round: 90, ..newest }, Place { epoch: 4, round: 41, ..newest }, Place { round: 39, ..newest }];
        for place in older {
            let manifest = written(&ground.folder, place, &[cut("parameters", 2, 10)]).await;
            let said = superseded(&ground.folder, &manifest).await;
            assert!(said.contains(&newest.to_string()) && said.contains("end one of the two runs"), "{said}");
        }
        let newer = Place { term: 4, epoch: 6, round: 38, lineage: 1 };
        published(&ground.folder, newer, &[cut("parameters", 3, 10)]).await;
        assert_eq!(ground.folder.newest().await.unwrap(), Some(newer));
    })
    .await;
}

#[tokio::test]
async fn who_begins_a_lineage_ends_the_older_ones() {
    on_every_store(async |ground| {
        let claim = |nonce: &str| Claim { run: "kjv".into(), nonce: nonce.into(), from: None };
        let first = ground.folder.claim(0, &claim("a")).await.unwrap();
        published(&ground.folder, place(1), &[cut("parameters", 1, 10)]).await;
        let second = ground.folder.claim(1, &claim("b")).await.unwrap();
        assert_eq!((first, second), (1, 2));
        let manifest = written(&ground.folder, place(2), &[cut("parameters", 2, 10)]).await;
        assert!(superseded(&ground.folder, &manifest).await.contains("lineage 2"));
        published(&ground.folder, Place { lineage: 2, term: 1, epoch: 1, round: 2 }, &[cut("parameters", 2, 10)]).await;
        // A folder whose numbers are lost begins after its checkpoints.
        assert_eq!(local().folder.claim(7, &claim("c")).await.unwrap(), 8);
    })
    .await;
}

#[tokio::test]
async fn after_the_last_number_no_lineage_begins_and_that_is_said() {
    on_every_store(async |ground| {
        let claim = |nonce: &str| Claim { run: "kjv".into(), nonce: nonce.into(), from: None };
        let said = ground.folder.claim(u64::MAX - 1, &claim("a")).await.unwrap_err();
        assert_eq!(said.kind, Kind::Last);
        assert!(said.to_string().contains("/checkpoints: no lineage can begin after it"), "{said}");
        let last = ground.folder.claim(u64::MAX - 2, &claim("b")).await.unwrap();
        published(&ground.folder, Place { lineage: last, term: 1, epoch: 1, round: 1 }, &[cut("parameters", 1, 10)]).await;
        let said = ground.folder.claim(1, &claim("c")).await.unwrap_err();
        assert!(said.to_string().contains("lineages/18446744073709551614.json: no lineage can begin after it"), "{said}");
    })
    .await;
}

#[tokio::test]
async fn no_two_have_one_lineage() {
    on_every_store(async |ground| {
        let claims = (0..8).map(async |index| {
            let claim = Claim { run: "kjv".into(), nonce: format!("{index}"), from: None };
            ground.folder.claim(0, &claim).await.unwrap()
        });
        let mut taken = futures::future::join_all(claims).await;
        taken.sort_unstable();
        assert_eq!(taken, [1, 2, 3, 4, 5, 6, 7, 8]);
    })
    .await;
}

#[tokio::test]
async fn the_same_again_is_no_other_checkpoint_and_another_of_one_place_is_refused() {
    on_every_store(async |ground| {
        let manifest = published(&ground.folder, place(1), &[cut("parameters", 1, 10)]).await;
        assert!(!ground.folder.publish(&manifest).await.unwrap());
        let other = Manifest { loss: 9.0, ..manifest.clone() };
        assert!(superseded(&ground.folder, &other).await.contains("another checkpoint of this place"));
        assert_eq!(ground.folder.manifest(place(1)).await.unwrap(), manifest);
    })
    .await;
}

#[tokio::test]
async fn of_many_that_publish_one_place_at_once_one_does() {
    on_every_store(async |ground| {
        let manifest = written(&ground.folder, place(1), &[cut("parameters", 1, 10)]).await;
        let all = (0..8).map(async |index| {
            let mine = Manifest { tokens: index, ..manifest.clone() };
            ground.folder.publish(&mine).await.is_ok().then_some(mine)
        });
        let published: Vec<_> = futures::future::join_all(all).await.into_iter().flatten().collect();
        assert_eq!(published, [ground.folder.manifest(place(1)).await.unwrap()]);
    })
    .await;
}

#[tokio::test]
async fn the_newest_is_found_in_three_requests_whatever_the_hint_says() {
    on_every_store(async |ground| {
        for round in 1..=3 {
            published(&ground.folder, place(round), &[cut("parameters", round, 10)]).await;
        }
        let store = ground.folder.store();
        for hint in [place(3).to_string(), place(1).to_string(), "half of".to_owned()] {
            store.put("LATEST", &[hint.clone().into()]).await.unwrap();
            let before = store.traffic().requests();
            let newest = ground.folder.newest().await.unwrap().unwrap();
            ground.folder.manifest(newest).await.unwrap();
            assert_eq!((newest, store.traffic().requests() - before), (place(3), 3), "{hint}");
        }
        for hint in [place(9).to_string(), "0".repeat(2 << 20)] {
            store.put("LATEST", &[hint.into()]).await.unwrap();
            assert_eq!(ground.folder.newest().await.unwrap(), Some(place(3)), "a hint is no more than that");
        }
        store.remove("LATEST").await.unwrap();
        assert_eq!(ground.folder.newest().await.unwrap(), Some(place(3)));
    })
    .await;
}

#[tokio::test]
async fn the_hint_never_goes_back() {
    on_every_store(async |ground| {
        let all = (1..=6).map(async |round| written(&ground.folder, place(round), &[cut("parameters", round, 10)]).await);
        let manifests = futures::future::join_all(all).await;
        // Whoever is refused is older than what is there.
        let publishing = manifests.iter().map(|manifest| ground.folder.publish(manifest));
        futures::future::join_all(publishing).await;
        let newest = ground.folder.entries().await.unwrap().last().unwrap().place;
        let (hint, _) = ground.folder.store().get("LATEST", 1_000).await.unwrap().unwrap();
        assert_eq!(hint, format!("{newest}\n"));
    })
    .await;
}
