//! Schemas of what Kubernetes defines and the API types carry as it is.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// A quantity such as 500m, 1.5 or 20Gi.
pub(crate) const QUANTITY: &str = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][-+]?[0-9]+)?$";

/// The value of a label.
pub(crate) const LABEL_VALUE: &str = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$";

/// Requests and limits of a container, and the claims of devices that it uses.
pub(crate) fn resources(_: &mut SchemaGenerator) -> Schema {
    let quantities = |description: &str| {
        json!({
            "type": "object",
            "description": description,
            "maxProperties": 32,
            "additionalProperties": { "x-kubernetes-int-or-string": true, "minimum": 0, "pattern": QUANTITY, "maxLength": 32 },
        })
    };
    json_schema!({
        "type": "object",
        "properties": {
            "requests": quantities("What a node must have free, by resource, such as cpu, memory or nvidia.com/gpu."),
            "limits": quantities("The most that is given, by resource; a container that takes more memory is ended."),
            "claims": {
                "type": "array",
                "description": "Resource claims of the pod that the container uses, as in any pod.",
                "maxItems": 16,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": named_object(),
            },
        },
    })
}

/// The conditions of a status (`metav1.Condition`), with the bounds that Kubernetes gives them.
#[cfg(feature = "kube")]
pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": { "type": "string", "description": "What it is about.", "minLength": 1, "maxLength": 64 },
                "status": { "type": "string", "description": "Whether it is so.", "enum": ["True", "False", "Unknown"] },
                "observedGeneration": {
                    "type": "integer",
                    "format": "int64",
                    "description": "The generation of the spec that it is about.",
                    "minimum": 0,
                },
                "lastTransitionTime": { "type": "string", "format": "date-time", "description": "When its status changed." },
                "reason": {
                    "type": "string",
                    "description": "Why, in one word for programs.",
                    "minLength": 1,
                    "maxLength": 128,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                },
                "message": { "type": "string", "description": "Why, in a sentence for people.", "maxLength": 4096 },
            },
        },
    })
}

/// Any object: what it means is Kubernetes' to say.
#[cfg(feature = "kube")]
pub(crate) fn opaque(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// A list of such objects, applied as a whole.
#[cfg(feature = "kube")]
pub(crate) fn opaque_list(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "maxItems": 64, "x-kubernetes-list-type": "atomic", "items": opaque(generator) })
}

/// A list of such objects, each with a name of its own.
#[cfg(feature = "kube")]
pub(crate) fn named_list(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
        "items": named_object(),
    })
}

fn named_object() -> Value {
    json!({
        "type": "object",
        "required": ["name"],
        "properties": { "name": { "type": "string", "description": "Its name.", "minLength": 1, "maxLength": 253 } },
        "x-kubernetes-preserve-unknown-fields": true,
    })
}
