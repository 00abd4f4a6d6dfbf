{{/* Name of the chart. */}}
{{- define "atoll.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* First part of the names of all objects. */}}
{{- define "atoll.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- $name := include "atoll.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{/* What selects the operator's pods. */}}
{{- define "atoll.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{/* Labels of every object. */}}
{{- define "atoll.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "atoll.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: atoll
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Name of the operator's ServiceAccount. */}}
{{- define "atoll.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "atoll.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{/* Name of the Secret with the key of all identities. */}}
{{- define "atoll.authority" -}}
{{- .Values.operator.authoritySecret | default (printf "%s-authority" (include "atoll.fullname" .)) }}
{{- end }}

{{/* Name of the Service at which workers reach the operator that leads. */}}
{{- define "atoll.hub" -}}
{{- printf "%s-hub" (include "atoll.fullname" .) }}
{{- end }}

{{/* Name of the lease. */}}
{{- define "atoll.lease" -}}
{{- printf "%s-operator" (include "atoll.fullname" .) }}
{{- end }}

{{/* Image of the operator. */}}
{{- define "atoll.image" -}}
{{- $name := printf "%s/%s" .Values.image.registry .Values.image.repository }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $name .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" $name (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}
{{- end }}

{{/* Whether the CRDs are part of the release: true, or nothing. */}}
{{- define "atoll.crds" -}}
{{- if kindIs "bool" .Values.crds.enabled }}
{{- if .Values.crds.enabled }}true{{ end }}
{{- else if not .Values.watchNamespaces }}true{{ end }}
{{- end }}
