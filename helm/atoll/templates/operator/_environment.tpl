{{/* The settings of the operator. */}}
{{- define "atoll.environment" -}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
{{- with .Values.watchNamespaces }}
- name: ATOLL_WATCH_NAMESPACES
  value: {{ join "," . | quote }}
{{- end }}
- name: ATOLL_HUB_ADDRESS
  value: {{ printf "%s.%s.svc:7470" (include "atoll.hub" .) .Release.Namespace | quote }}
- name: ATOLL_HUB_SERVICE
  value: {{ include "atoll.hub" . | quote }}
- name: ATOLL_LEASE
  value: {{ include "atoll.lease" . | quote }}
- name: ATOLL_AUTHORITY_SECRET
  value: {{ include "atoll.authority" . | quote }}
{{- with .Values.operator.tokenIssuer }}
- name: ATOLL_TOKEN_ISSUER
  value: {{ . | quote }}
{{- end }}
- name: ATOLL_CONCURRENCY
  value: {{ .Values.operator.concurrency | quote }}
{{- with .Values.monitoring.namespace }}
- name: ATOLL_MONITORING_NAMESPACE
  value: {{ . | quote }}
{{- end }}
- name: ATOLL_NETWORK_POLICIES
  value: {{ .Values.networkPolicy.enabled | quote }}
- name: ATOLL_LOG
  value: {{ .Values.operator.log | quote }}
{{- with .Values.operator.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
