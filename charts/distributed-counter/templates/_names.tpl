{{/* The name of the operator's objects. */}}
{{- define "dc.name" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $chart := default .Chart.Name .Values.nameOverride -}}
{{- if contains $chart .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $chart | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "dc.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "dc.name" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name must name the account to use when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "dc.selector" -}}
app.kubernetes.io/name: distributed-counter-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "dc.labels" -}}
{{ include "dc.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: distributed-counter
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* REPOSITORY:TAG of an image value, at the chart's appVersion where it names no tag. */}}
{{- define "dc.image" -}}
{{- $image := index . 0 -}}{{- $root := index . 1 -}}
{{- printf "%s:%s" $image.repository (default $root.Chart.AppVersion $image.tag) -}}
{{- end -}}

{{/*
What the operator may do where clusters live: the same rules in a ClusterRole or in a Role per namespace.
Secrets are made once and read by name, never listed, watched or written again.
*/}}
{{- define "dc.rules" -}}
- apiGroups: [distributedcounter.dev]
  resources: [distributedcounters]
  verbs: [get, list, watch]
- apiGroups: [distributedcounter.dev]
  resources: [distributedcounters/status]
  verbs: [patch]
# Where Kubernetes is told to ask for it, only this lets an object's owner reference block a foreground deletion.
- apiGroups: [distributedcounter.dev]
  resources: [distributedcounters/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, list, watch, create, patch]
# The layout is written by compare-and-swap, which is an update, and outlives its cluster.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, update]
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [pods/eviction]
  verbs: [create]
# Volumes grow when the spec's size does.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- if eq .Values.reach "proxy" }}
- apiGroups: [""]
  resources: [pods/proxy]
  verbs: [get, update]
{{- end }}
{{- end -}}
