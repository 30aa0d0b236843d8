//go:build tools

// Package tools names what `go build` and `go test -c` make from this module.
package tools

import (
	_ "sigs.k8s.io/gateway-api-inference-extension/conformance"
	_ "sigs.k8s.io/gateway-api/conformance/echo-basic"
)
