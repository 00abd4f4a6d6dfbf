//! What this sidecar asks of the run's arbiter, and its own vote in it.

use atoll_collective::arbiter;
use atoll_collective::coordinator::{self, Coordinator};
use atoll_collective::peer;
use atoll_collective::v1::{EpochRecord, ForceReply, ForceRequest, Hub, Standing};
use tokio::time::Instant;
use tonic::Status;

use super::{Core, Input};

impl Core {
    /// A question, an answer, or news of an arbiter.
    pub(super) fn take_from_arbiter(&mut self, input: Input) {
        let now = self.now();
        match input {
            Input::Learned(record) => self.petition_event(arbiter::Event::Learned(record)),
            Input::Ruled(ruling) => self.petition_event(arbiter::Event::Ruled(ruling)),
            Input::Answered { question, voter, ruling } => {
                self.petition_event(arbiter::Event::Answered { question, voter, ruling });
            }
            Input::Hub(hub) => self.hub_says(hub),
            Input::Beat { request, vote } => {
                let (reply, actions) = self.petition.beat(&request, now);
                let _gone = vote.send(reply);
                self.arbitrate(actions);
            }
            Input::Promise { request, vote } => {
                let (ruling, actions) = self.petition.promise(&request, now);
                let _gone = vote.send(ruling);
                self.arbitrate(actions);
            }
            Input::Accept { request, vote } => {
                let (ruling, actions) = self.petition.accept(&request, now);
                let _gone = vote.send(ruling);
                self.arbitrate(actions);
            }
            Input::Stand { answer } => {
                let _gone = answer.send(Ok(self.standing()));
            }
            Input::Force { request, answer } => {
                let _gone = answer.send(self.force(&request));
            }
            _ => {}
        }
    }

    /// Heartbeats: to the hub, and from the coordinator to the voters of `Peers` and to its peers.
    pub(super) fn beat(&mut self) {
        if self.last_beat.is_none_or(|beat| beat.elapsed() >= self.liveness() / 8) {
            self.last_beat = Some(Instant::now());
            self.arbiters.beat(&self.petition);
            self.beat_peers();
        }
    }

    pub(super) fn petition_event(&mut self, event: arbiter::Event) {
        let actions = self.petition.tick(event, self.now());
        self.arbitrate(actions);
    }

    fn arbitrate(&mut self, actions: Vec<arbiter::Action>) {
        for action in actions {
            match action {
                arbiter::Action::AskSingle(question) => self.arbiters.ask_single(question),
                arbiter::Action::Ask { voter, question, body } => self.arbiters.ask(voter, question, body),
                arbiter::Action::Located(record) => self.locate(record),
                arbiter::Action::Ruled(ruling) => self.coordinator_event(coordinator::Event::Ruled(ruling)),
                arbiter::Action::Report(notice) => self.shared.report.notice(&notice),
            }
        }
    }

    /// Learns a granted record: takes the coordinator's role when it is this sidecar's, and gives it back.
    fn locate(&mut self, record: EpochRecord) {
        self.arbiters.keep(&record);
        // Others hear of it with the next tick.
        self.last_beat = None;
        let newer = self.coordinator.as_ref().is_none_or(|coordinator| coordinator.term() < record.term);
        if newer {
            let mine = record.coordinator.as_ref() == Some(&self.me);
            if mine || self.coordinator.is_some() {
                self.step_down();
            }
            if mine {
                let coordinator = Coordinator::new(self.config.settings.clone(), record.clone(), self.now());
                let coordinator = coordinator.with_rules(self.shared.rules);
                self.observation.coordinates(Some(&coordinator));
                self.coordinator = Some(coordinator);
                self.shared.report.coordinator(record.term);
                self.report_progress();
                if let Some((hub, _)) = self.hub.clone() {
                    self.coordinator_event(coordinator::Event::Hub(hub));
                }
            }
        }
        self.record.send_if_modified(|known| {
            let newer = arbiter::is_newer(&record, known);
            if newer {
                known.clone_from(&record);
            }
            newer
        });
        self.peer_event(peer::Event::Located(record));
    }

    /// Kept for the coordinator that this sidecar may become.
    fn hub_says(&mut self, hub: Hub) {
        self.hub = Some((hub.clone(), Instant::now()));
        self.coordinator_event(coordinator::Event::Hub(hub));
    }

    fn standing(&self) -> Standing {
        let answers = self.hub.as_ref().filter(|(_, heard)| heard.elapsed() <= self.liveness());
        Standing {
            member: Some(self.me.clone()),
            record: Some(self.petition.record().clone()),
            hub: answers.and_then(|(hub, _)| hub.voter.clone()),
            without_majority: self.petition.is_without_majority(),
        }
    }

    fn force(&mut self, request: &ForceRequest) -> Result<ForceReply, Status> {
        if !self.petition.is_without_majority() {
            return Err(Status::failed_precondition(
                "a majority of the voters answers, or nobody was asked: there is nothing to force",
            ));
        }
        let actions = self
            .petition
            .force(request.observed_term, &request.survivors, self.now())
            .map_err(|refused| Status::failed_precondition(refused.to_string()))?;
        self.shared.report.forced(request.observed_term, &request.survivors);
        self.arbitrate(actions);
        Ok(ForceReply {})
    }
}
