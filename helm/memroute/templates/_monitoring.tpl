{{- /* Names of what is for monitoring: the release's, so that several can stand side by side. */ -}}
{{- define "memroute.monitoringName" -}}
{{ include "memroute.fullname" . }}
{{- end }}
