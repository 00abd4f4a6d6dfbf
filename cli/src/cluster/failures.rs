//! What is said where the cluster cannot be used.

use kube::config::KubeconfigError;

use super::text::plain;
use crate::Ending;

/// The kubeconfig cannot be used.
pub(super) fn no_cluster(error: &KubeconfigError) -> Ending {
    let hint = "give --kubeconfig FILE, or set KUBECONFIG";
    match error {
        KubeconfigError::CurrentContextNotSet => {
            Ending::BadInput("the kubeconfig has no present context; give --context NAME".to_owned())
        }
        KubeconfigError::ReadConfig(why, file) => {
            Ending::BadInput(format!("no cluster: {} cannot be read: {why}; {hint}", file.display()))
        }
        KubeconfigError::FindPath => Ending::BadInput(format!("no cluster: there is no kubeconfig; {hint}")),
        other => Ending::BadInput(format!("no cluster: the kubeconfig cannot be used: {other}")),
    }
}

/// The API server knows no kinds of Atoll.
pub(super) fn not_installed(server: &str) -> Ending {
    Ending::Failed(format!(
        "Atoll is not installed in the cluster at {server}: \
         helm install atoll helm/atoll --namespace atoll-system --create-namespace"
    ))
}

/// Why the API server did not do what was asked; `doing` is what that was, as in "list the pods in the namespace research".
pub(super) fn explain(error: &kube::Error, doing: &str, server: &str) -> Ending {
    Ending::Failed(match error {
        kube::Error::Api(status) => {
            let said = plain(&status.message);
            match status.code {
                401 => format!("the cluster at {server} does not accept your credentials: {said}"),
                403 => format!("you may not {doing}: {said}"),
                code => format!("cannot {doing}: the API server says {code}: {said}"),
            }
        }
        kube::Error::Auth(why) => format!("cannot log in to the cluster at {server}: {}", deepest(why)),
        kube::Error::Service(_) | kube::Error::HyperError(_) => {
            format!("the cluster at {server} does not answer: {}", deepest(error))
        }
        other => format!("cannot {doing}: {}", plain(&other.to_string())),
    })
}

/// What is behind an error and all that carries it.
pub(super) fn deepest(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    plain(&cause.to_string())
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn refused(code: u16) -> Ending {
        let status = Status { code, message: "pods is forbidden".into(), ..Status::default() };
        explain(&kube::Error::Api(Box::new(status)), "list the pods", "https://c/")
    }

    #[test]
    fn who_may_not_is_told_so_and_what_for() {
        assert_eq!(refused(403).message(), "you may not list the pods: pods is forbidden");
        assert_eq!(refused(401).message(), "the cluster at https://c/ does not accept your credentials: pods is forbidden");
        assert_eq!(refused(500).message(), "cannot list the pods: the API server says 500: pods is forbidden");
    }

    #[test]
    fn a_server_that_is_not_there_is_named_with_the_first_cause() {
        let refused = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "nobody listens");
        let ending = explain(&kube::Error::Service(Box::new(refused)), "list the pods", "https://c/");
        assert_eq!(ending.message(), "the cluster at https://c/ does not answer: nobody listens");
    }
}
