//! What the operator is started with.

use std::net::SocketAddr;

use clap::Parser;

/// Trains models on this cluster as `TrainingRun` objects say.
#[derive(Debug, Clone, Parser)]
#[command(name = "atoll-operator", version)]
pub struct Settings {
    /// Namespace of the operator itself
    #[arg(long, env = "POD_NAMESPACE", default_value = "atoll-system")]
    pub namespace: String,
    /// Name of this pod, by which it holds the lease
    #[arg(long, env = "POD_NAME", default_value = "atoll-operator")]
    pub pod_name: String,
    /// Address of this pod, at which workers reach the hub while it leads
    #[arg(long, env = "POD_IP", default_value = "127.0.0.1")]
    pub pod_ip: std::net::IpAddr,
    /// Namespace whose runs it trains; all when there is none, several when it is repeated
    #[arg(long = "watch-namespace", env = "ATOLL_WATCH_NAMESPACES", value_name = "NAMESPACE", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,
    /// HOST:PORT by which workers reach the hub
    #[arg(long, env = "ATOLL_HUB_ADDRESS", value_name = "HOST:PORT", default_value = "atoll-hub.atoll-system.svc:7470")]
    pub hub_address: String,
    /// Name of the Service without a selector whose addresses this operator sets to its own while it leads
    #[arg(long, env = "ATOLL_HUB_SERVICE", default_value = "atoll-hub")]
    pub hub_service: String,
    /// Where the hub listens
    #[arg(long, default_value = "[::]:7470")]
    pub hub_listen: SocketAddr,
    /// Where metrics and probes are served
    #[arg(long, default_value = "[::]:8080")]
    pub admin_listen: SocketAddr,
    /// Name of the lease that one of several operators holds
    #[arg(long, env = "ATOLL_LEASE", default_value = "atoll-operator")]
    pub lease: String,
    /// Name of the Secret with the key that everything of a run is derived from; made where it is missing
    #[arg(long, env = "ATOLL_AUTHORITY_SECRET", default_value = "atoll-authority")]
    pub authority_secret: String,
    /// Issuer of the tokens of pods; asked of the API server when unset
    #[arg(long, env = "ATOLL_TOKEN_ISSUER")]
    pub token_issuer: Option<String>,
    /// Runs that are reconciled at the same time
    #[arg(long, env = "ATOLL_CONCURRENCY", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,
    /// Namespace whose pods may scrape the metrics of workers; any when unset
    #[arg(long, env = "ATOLL_MONITORING_NAMESPACE")]
    pub monitoring_namespace: Option<String>,
    /// Whether each run gets a network policy
    #[arg(long, env = "ATOLL_NETWORK_POLICIES", default_value_t = true, action = clap::ArgAction::Set)]
    pub network_policies: bool,
}
