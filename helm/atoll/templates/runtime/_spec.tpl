{{/* The template that runs name. */}}
{{- define "atoll.runtime.spec" -}}
images:
  trainer: {{ .Values.runtime.trainer.image | default (printf "%s/atoll-trainer:%s" .Values.image.registry .Chart.AppVersion) | quote }}
  sidecar: {{ .Values.runtime.sidecar.image | default (printf "%s/atoll-sidecar:%s" .Values.image.registry .Chart.AppVersion) | quote }}
  pullPolicy: {{ .Values.runtime.pullPolicy }}
  {{- with .Values.runtime.pullSecrets }}
  pullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
trainer:
  resources:
    {{- toYaml .Values.runtime.trainer.resources | nindent 4 }}
  {{- with .Values.runtime.trainer.env }}
  env:
    {{- toYaml . | nindent 4 }}
  {{- end }}
sidecar:
  resources:
    {{- toYaml .Values.runtime.sidecar.resources | nindent 4 }}
  {{- with .Values.runtime.sidecar.env }}
  env:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- with .Values.runtime.pod }}
pod:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
