//! Where a cluster places the workers. Local runs do not read these fields.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::kubernetes::LABEL_VALUE;

/// A template of images and resources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeRef {
    /// Whether the template is the cluster's or the namespace's.
    pub kind: RuntimeKind,
    /// Name of the template.
    #[schemars(length(max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
}

/// Kind of a template of images and resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RuntimeKind {
    /// Offered by the platform to all namespaces.
    ClusterTrainingRuntime,
    /// Private to the run's namespace.
    TrainingRuntime,
}

/// Which clusters and volunteers may train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Which member clusters may train.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Members>,
    /// Whether volunteers may train, and how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volunteers: Option<Volunteers>,
}

/// Which member clusters may train.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Members {
    /// Labels that a member cluster must have.
    pub selector: LabelSelector,
}

/// Labels that an object must have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Names and values of labels, all of which must match.
    #[schemars(extend(
        "maxProperties" = 16,
        "additionalProperties" = {
            "type": "string",
            "maxLength": 63,
            "pattern": LABEL_VALUE,
        }
    ))]
    pub match_labels: BTreeMap<String, String>,
}

/// Whether volunteers may train, and how many.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Volunteers {
    /// Whether volunteers may train.
    pub allow: bool,
    /// Largest share of the workers that may be volunteers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0), extend("exclusiveMinimum" = true))]
    pub max_fraction: Option<f64>,
}
