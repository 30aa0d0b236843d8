//go:build tools

// Package tools names the command that `go build` makes from this module.
package tools

import _ "helm.sh/helm/v4/cmd/helm"
