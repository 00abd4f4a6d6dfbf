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
{{ include "atoll.alert" (list . "RunHolding" "warning" "1m"
  (printf "time() - atoll_operator_run_holding_timestamp_seconds > %d" (int $rules.holdingSeconds))
  "{{ $labels.namespace }}/{{ $labels.run }} holds: {{ $labels.reason }}"
  "The run has committed no round for {{ $value | humanizeDuration }}, and waits for what its conditions say.") }}
{{ include "atoll.alert" (list . "RunFailed" "warning" "0m"
  "time() - atoll_operator_run_failed_timestamp_seconds < 3600"
  "{{ $labels.namespace }}/{{ $labels.run }} failed: {{ $labels.reason }}"
  "The condition Failed names the worker, its exit code and its last line. The alert ends an hour after the failure.") }}
{{ include "atoll.alert" (list . "CheckpointStale" "warning" "5m"
  (printf "time() - atoll_operator_run_checkpoint_timestamp_seconds > %d" (int $rules.checkpointSeconds))
  "{{ $labels.namespace }}/{{ $labels.run }} has kept no checkpoint for long"
  "The last whole checkpoint is {{ $value | humanizeDuration }} old; what came after it is lost when all workers are.") }}
{{ include "atoll.alert" (list . "ReconcileErrors" "warning" "15m"
  `sum by (controller) (rate(atoll_operator_reconciles_total{outcome="failed"}[10m])) > 0.05`
  "The operator fails to reconcile {{ $labels.controller }}"
  "The API server refuses or does not answer what the operator asks; its log says what.") }}
{{ include "atoll.alert" (list . "EnrolmentsRefused" "warning" "5m"
  `sum by (reason) (rate(atoll_operator_enrolments_total{outcome="refused"}[10m])) > 0.01`
  "Workers are refused a certificate: {{ $labels.reason }}"
  "A pod asks for an identity that its token does not give it, or the operator cannot check tokens.") }}
{{ include "atoll.alert" (list . "SlowReconciles" "info" "15m"
  "histogram_quantile(0.99, sum by (le, controller) (rate(atoll_operator_reconcile_seconds_bucket[10m]))) > 5"
  "The operator takes long to reconcile {{ $labels.controller }}"
  "One of a hundred takes more than {{ $value | humanizeDuration }}.") }}
{{- end }}
