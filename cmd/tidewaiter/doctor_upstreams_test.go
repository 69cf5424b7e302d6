package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/upstream"
)

func TestDiagnosePong(t *testing.T) {
	why := errors.New("why")
	const at = "https://registry.test"
	for _, tt := range []struct {
		law   string
		pong  upstream.Pong
		want  health
		found string
	}{
		{"it answers", upstream.Pong{}, sound, at + " answers"},
		{"it takes the credentials", upstream.Pong{Configured: true, Shown: true}, sound, at + " takes the credentials"},
		{"nobody saw whether it does", upstream.Pong{Configured: true}, sound, at + " answers, without asking"},
		{"it refuses the credentials", upstream.Pong{Configured: true, Shown: true, Fault: upstream.FaultUnauthorized, Err: why}, failing, at + ": unauthorized: why"},
		{"it asks for some that there are not", upstream.Pong{Fault: upstream.FaultUnauthorized, Err: why}, failing, at + ": unauthorized: why"},
		{"it may give out repositories to those without", upstream.Pong{Shown: true, Fault: upstream.FaultUnauthorized, Err: why}, doubtful, at + ": unauthorized: why"},
		{"it limits the rate", upstream.Pong{Fault: upstream.FaultLimited, Err: why}, doubtful, at + ": limited: why"},
		{"a mirror is down", upstream.Pong{Mirror: true, Fault: upstream.FaultConnection, Err: why}, doubtful, "mirror " + at + ": connection: why"},
		{"it is down", upstream.Pong{Fault: upstream.FaultConnection, Err: why}, failing, at + ": connection: why"},
	} {
		tt.pong.URL = at
		got := diagnosePong(tt.pong)
		if got.Status != tt.want || !strings.HasPrefix(got.Found, tt.found) || (got.Do == "") != (got.Status == sound) {
			t.Errorf("%s: got %+v", tt.law, got)
		}
	}
}

func TestEveryFaultHasARemedy(t *testing.T) {
	for _, f := range []upstream.Fault{
		upstream.FaultName, upstream.FaultPrivate, upstream.FaultConnection, upstream.FaultTLS, upstream.FaultRealm, upstream.FaultCredentials,
		upstream.FaultUnauthorized, upstream.FaultLimited, upstream.FaultSlow, upstream.FaultAnswer,
	} {
		if remedies[f] == "" {
			t.Errorf("%s has none", f)
		}
	}
}
