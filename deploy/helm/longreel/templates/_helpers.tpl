{{- define "longreel.name" -}}
{{- if contains "longreel" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-longreel" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "longreel.selector" -}}
app.kubernetes.io/name: longreel
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "longreel.labels" -}}
{{ include "longreel.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "longreel.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default (printf "%s-%s" .Chart.AppVersion (ternary "gpu" "cpu" .Values.gpu.enabled)) }}
{{- end }}

{{- define "longreel.secret" -}}
{{ .Values.secrets.existing | default (include "longreel.name" .) }}
{{- end }}

{{- define "longreel.claim" -}}
accessModes: [{{ .accessMode }}]
{{- with .storageClass }}
storageClassName: {{ . | quote }}
{{- end }}
resources: {requests: {storage: {{ .size }}}}
{{- end }}
