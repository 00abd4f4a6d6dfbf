//! Atoll's API types, their schemas, and the validation of TrainingRun files.
