{{/* One alert: (list context name severity for expression summary description). */}}
{{- define "atoll.alert" -}}
{{- $rules := (index . 0).Values.monitoring.rules -}}
- alert: Atoll{{ index . 1 }}
  expr: {{ index . 4 }}
  for: {{ index . 3 }}
  labels:
    severity: {{ index . 2 }}
    {{- with $rules.alertLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    summary: {{ index . 5 | quote }}
    description: {{ index . 6 | quote }}
    runbook_url: {{ printf "%satoll%s" $rules.runbookUrl (lower (index . 1)) | quote }}
{{- end }}

{{/* All alerts. */}}
{{- define "atoll.alerts" -}}
{{- $rules := .Values.monitoring.rules -}}
{{ include "atoll.alert" (list . "OperatorDown" "critical" "5m"
  "absent(atoll_operator_leader == 1)"
  "No operator of Atoll leads"
  "Runs go on, but none begins, and a lost worker is not replaced. The operator is down, cannot be scraped, or does not get its lease.") }}
{{ include "atoll.alert" (list . "RunHolding" "warning" (printf "%ds" (int $rules.holdingSeconds))
  `sum(atoll_operator_runs{phase="Holding"}) > 0`
  "{{ $value }} runs hold"
  "They commit no rounds, and wait for what their conditions say: kubectl get trainingruns --all-namespaces shows which.") }}
{{ include "atoll.alert" (list . "RunFailed" "warning" "0m"
  `(sum(atoll_operator_runs{phase="Failed"}) or vector(0)) - (sum(atoll_operator_runs{phase="Failed"} offset 15m) or vector(0)) > 0`
  "{{ $value }} runs failed in the last 15 minutes"
  "The condition Failed of a run names the worker, its exit code and its last line.") }}
{{ include "atoll.alert" (list . "CheckpointStale" "warning" "5m"
  "sum(atoll_operator_runs_checkpoint_stale) > 0"
  "{{ $value }} runs have kept no checkpoint for longer than they are to"
  "What came after the last whole checkpoint is lost when all workers are. Their condition CheckpointFresh says why.") }}
{{ include "atoll.alert" (list . "ReconcileErrors" "warning" "15m"
  `sum by (outcome) (rate(atoll_operator_reconciles_total{outcome=~"refused|unavailable"}[10m])) > 0.05`
  "What the operator asks of the API server is {{ $labels.outcome }}"
  "A request was refused, or not answered; the log of the operator says which.") }}
{{ include "atoll.alert" (list . "SlowReconciles" "info" "15m"
  "histogram_quantile(0.99, sum by (le) (rate(atoll_operator_reconcile_seconds_bucket[10m]))) > 1"
  "The operator takes long"
  "One reconciliation of a hundred takes more than {{ $value | humanizeDuration }}.") }}
{{ include "atoll.alert" (list . "EnrolmentsRefused" "warning" "5m"
  `sum by (outcome) (rate(atoll_hub_enrolments_total{outcome!~"enrolled|later"}[10m])) > 0.01`
  "Workers get no certificate: {{ $labels.outcome }}"
  "A pod asks for an identity that its token does not give it, or the operator cannot check tokens; its log says which.") }}
{{ include "atoll.alert" (list . "HubStoreFailures" "warning" "5m"
  "sum(rate(atoll_hub_store_failures_total[10m])) > 0.05"
  "Terms and changes of membership cannot be stored"
  "Runs whose workers come or go hold until the API server takes the operator's writes again.") }}
{{- end }}
