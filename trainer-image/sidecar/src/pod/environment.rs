//! What a pod's environment says.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use atoll_collective::transport::HostPort;

use super::PodError;

/// What a sidecar in a pod is started with.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Environment {
    /// Where the operator's hub is.
    pub(super) hub: HostPort,
    /// Certificates that the hub's is signed by, a file of PEM.
    pub(super) roots: PathBuf,
    /// The pod's projected token, a file that is written again before it expires.
    pub(super) token: PathBuf,
    /// Where its lanes listen.
    pub(super) lanes: SocketAddr,
    /// Where its pages are.
    pub(super) pages: SocketAddr,
    /// The folder that it shares with its trainer.
    pub(super) shared: PathBuf,
    /// How long it may take to end.
    pub(super) grace: Duration,
}

impl Environment {
    /// Reads the variables that `variable` gives.
    ///
    /// # Errors
    /// [`PodError::Variable`]: the first that is missing or wrong.
    pub(super) fn of(variable: impl Fn(&'static str) -> Option<String>) -> Result<Self, PodError> {
        let ip: IpAddr = required(&variable, "ATOLL_POD_IP", "the pod's address")?;
        Ok(Self {
            hub: required(&variable, "ATOLL_HUB", "the operator's HOST:PORT")?,
            roots: or(&variable, "ATOLL_HUB_ROOTS", "a path", "/etc/atoll/hub.pem".into())?,
            token: or(&variable, "ATOLL_TOKEN", "a path", "/var/run/secrets/atoll.dev/token".into())?,
            lanes: SocketAddr::new(ip, or(&variable, "ATOLL_LANE_PORT", "a port", 7471)?),
            pages: SocketAddr::new(ip, or(&variable, "ATOLL_METRICS_PORT", "a port", 7472)?),
            shared: or(&variable, "ATOLL_SHARED", "a path", "/run/atoll".into())?,
            grace: Duration::from_secs(or(&variable, "ATOLL_GRACE_SECONDS", "whole seconds", 50)?),
        })
    }
}

fn required<T: FromStr>(
    variable: impl Fn(&'static str) -> Option<String>,
    name: &'static str,
    what: &'static str,
) -> Result<T, PodError> {
    let text = variable(name).ok_or_else(|| PodError::Variable { name, problem: format!("is not set: give {what}") })?;
    text.parse().map_err(|_| PodError::Variable { name, problem: format!("is {text:?}: give {what}") })
}

fn or<T: FromStr>(
    variable: impl Fn(&'static str) -> Option<String>,
    name: &'static str,
    what: &'static str,
    default: T,
) -> Result<T, PodError> {
    if variable(name).is_some() { required(variable, name, what) } else { Ok(default) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: &[(&str, &str)]) -> Result<Environment, String> {
        let value = |name| given.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Environment::of(value).map_err(|error| error.to_string())
    }

    #[test]
    fn where_the_hub_and_the_pod_are_is_enough() {
        let environment = read(&[("ATOLL_HUB", "atoll-hub.atoll.svc:7470"), ("ATOLL_POD_IP", "fd00::7")]).unwrap();
        assert_eq!(environment.lanes.to_string(), "[fd00::7]:7471");
        assert_eq!((environment.pages.port(), environment.grace.as_secs()), (7472, 50));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        assert_eq!(read(&[("ATOLL_POD_IP", "10.0.0.7")]).unwrap_err(), "ATOLL_HUB is not set: give the operator's HOST:PORT");
        let wrong = read(&[("ATOLL_HUB", "hub:1"), ("ATOLL_POD_IP", "10.0.0.7"), ("ATOLL_LANE_PORT", "many")]).unwrap_err();
        assert_eq!(wrong, "ATOLL_LANE_PORT is \"many\": give a port");
    }
}
