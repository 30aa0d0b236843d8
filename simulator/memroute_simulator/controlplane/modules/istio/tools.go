//go:build tools

// Package tools names the command that `go build` makes from this module.
package tools

import _ "istio.io/istio/pilot/cmd/pilot-discovery"
