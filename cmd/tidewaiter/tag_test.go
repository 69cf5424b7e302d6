package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

func TestJoinedByTag(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	image, tag := gate.Reason{Rule: gate.RuleSize, Message: "large"}, gate.Reason{Rule: gate.RuleCEL, Message: "no-latest"}
	allowed := gate.Verdict{Decision: gate.Allow, Until: now.Add(2 * time.Hour)}
	denied := gate.Verdict{Reasons: []gate.Reason{image}, Until: now}
	for name, tt := range map[string]struct{ image, tag, want gate.Verdict }{
		"both allow":        {allowed, gate.Verdict{Decision: gate.Allow, Until: now.Add(time.Hour)}, gate.Verdict{Decision: gate.Allow, Until: now.Add(time.Hour)}},
		"the tag warns":     {allowed, gate.Verdict{Decision: gate.Allow, Warnings: []gate.Reason{tag}, Until: now}, gate.Verdict{Decision: gate.Allow, Warnings: []gate.Reason{tag}, Until: now}},
		"the tag denies":    {allowed, gate.Verdict{Reasons: []gate.Reason{tag}, Until: now}, gate.Verdict{Reasons: []gate.Reason{tag}, Until: now}},
		"the image does":    {denied, allowed, denied},
		"both do":           {denied, gate.Verdict{Reasons: []gate.Reason{tag}, Until: now}, gate.Verdict{Reasons: []gate.Reason{tag, image}, Until: now}},
		"nobody has judged": {denied, gate.Verdict{}, gate.Verdict{Reasons: []gate.Reason{image}}},
	} {
		if diff := cmp.Diff(joinedByTag(tt.image, tt.tag), tt.want); diff != "" {
			t.Errorf("%s, got -, want +:\n%s", name, diff)
		}
	}
}
