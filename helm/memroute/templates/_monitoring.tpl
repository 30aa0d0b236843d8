{{- /* Names of what is for monitoring: the release's, so that several can stand side by side. */ -}}
{{- define "memroute.monitoringName" -}}
{{- if contains "memroute" .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-memroute" .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end }}
