{{/* Names, labels and the parts that several workloads share. */}}

{{- define "shoal.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "shoal.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "shoal.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "shoal.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What never changes, for selectors. Called with (dict "root" $ "component" "agent"). */}}
{{- define "shoal.selector" -}}
app.kubernetes.io/name: {{ include "shoal.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "shoal.labels" -}}
{{ include "shoal.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: shoal
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "shoal.image" -}}
{{- $image := .root.Values.image -}}
{{- $name := printf "%s/%s/shoal-%s" $image.registry $image.repository .component -}}
{{- with get $image.digests .component -}}
{{- printf "%s@%s" $name . -}}
{{- else -}}
{{- printf "%s:%s" $name (default $.root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "shoal.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "shoal.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "shoal.keySecret" -}}
{{- default (printf "%s-cluster-key" (include "shoal.fullname" .)) .Values.cluster.existingKeySecret -}}
{{- end -}}

{{- define "shoal.joinSecret" -}}
{{- default (printf "%s-join-token" (include "shoal.fullname" .)) .Values.cluster.existingJoinSecret -}}
{{- end -}}

{{/* The trackers that agents and origins ask, by a name that stands for all of them. */}}
{{- define "shoal.trackers" -}}
{{- $component := ternary "tracker" "origin" .Values.tracker.enabled -}}
{{- printf "%s-%s.%s.svc:7052" (include "shoal.fullname" .) $component .Release.Namespace -}}
{{- end -}}

{{/* A table as TOML. Whole numbers of values reach templates as floats, which TOML tells apart. */}}
{{- define "shoal.toml" -}}
{{- regexReplaceAll "(?m)= (-?[0-9]+)\\.0$" (toToml .) "= ${1}" -}}
{{- end -}}

{{- define "shoal.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "shoal.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
{{- end -}}

{{/* Probes on the admin port. Called with (dict "port" 9050 "host" "127.0.0.1"), host empty for the pod's own. */}}
{{- define "shoal.probes" -}}
startupProbe:
  httpGet:
    path: /readyz
    port: {{ .port }}
    {{- with .host }}
    host: {{ . }}
    {{- end }}
  periodSeconds: 2
  timeoutSeconds: 5
  # Opening a large store after a crash checks what was being written.
  failureThreshold: 150
readinessProbe:
  httpGet:
    path: /readyz
    port: {{ .port }}
    {{- with .host }}
    host: {{ . }}
    {{- end }}
  periodSeconds: 10
  timeoutSeconds: 5
livenessProbe:
  httpGet:
    path: /livez
    port: {{ .port }}
    {{- with .host }}
    host: {{ . }}
    {{- end }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
{{- end -}}
