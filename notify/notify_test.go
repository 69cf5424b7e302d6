package notify

import (
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

func quiet(t *testing.T) *Hub {
	t.Helper()
	at := time.Date(2026, 4, 1, 12, 0, 0, 0, time.FixedZone("", 7200))
	h, err := New(Options{Source: "https://console.example", Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return at }})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// The attributes are those CloudEvents 1.0.2 asks for, and nothing else.
func TestEventsAreCloudEvents(t *testing.T) {
	h := quiet(t)
	r, leave, err := h.Read("")
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	repo := repository(t, "docker.io/library/nginx")
	v := gate.Verdict{
		Repository: repo, Digest: oci.FromBytes([]byte("x")), Policy: "production", JudgedAt: time.Date(2026, 4, 1, 9, 0, 0, 0, time.UTC),
		Reasons: []gate.Reason{{Rule: gate.RuleSignatures, Message: "unsigned"}}, Keep: true,
	}
	h.Publish(t.Context(), Verdict(v))
	h.Publish(t.Context(), Event{Type: PolicyRejected})
	h.Publish(t.Context(), Event{Type: Recall, Repository: repo, Data: math.Inf(1)})
	h.Publish(t.Context(), Event{Type: Recall, Data: strings.Repeat("x", maxDataBytes)})
	var got []map[string]any
	for range 4 {
		p, _, _ := r.Next(t.Context(), nil)
		var e map[string]any
		if err := json.Unmarshal(p.Body, &e); err != nil {
			t.Fatal(err)
		}
		if e["id"] != p.ID || !regexp.MustCompile(`^[A-Z0-9]{26}-[0-9]+$`).MatchString(p.ID) {
			t.Errorf("its id is %v, %q", e["id"], p.ID)
		}
		delete(e, "id")
		got = append(got, e)
	}
	common := func(t Type, at string, more map[string]any) map[string]any {
		e := map[string]any{"specversion": "1.0", "source": "https://console.example", "type": "com.github.tidewaiter." + string(t), "time": at}
		for k, v := range more {
			e[k] = v
		}
		return e
	}
	want := []map[string]any{
		common(VerdictDenied, "2026-04-01T09:00:00Z", map[string]any{
			"subject": v.Candidate().String(), "datacontenttype": "application/json", "data": map[string]any{
				"decision": "deny", "repository": "docker.io/library/nginx", "digest": v.Digest.String(), "policy": "production",
				"summary": "production: unsigned", "reasons": []any{map[string]any{"rule": "signatures", "message": "unsigned"}}, "keep": true,
				"complete": false, "judged_at": "2026-04-01T09:00:00Z", "until": "0001-01-01T00:00:00Z", "policy_revision": "",
			},
		}),
		common(PolicyRejected, "2026-04-01T10:00:00Z", nil),
		common(Recall, "2026-04-01T10:00:00Z", map[string]any{"subject": repo.String(), "datacontenttype": "application/json", "data": map[string]any{"omitted": true}}),
		common(Recall, "2026-04-01T10:00:00Z", map[string]any{"datacontenttype": "application/json", "data": map[string]any{"omitted": true}}),
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(h.Stats().Published, map[Type]uint64{VerdictDenied: 1, PolicyRejected: 1, Recall: 2}); diff != "" {
		t.Error(diff)
	}
}

// However much there is to say of a verdict, an event says it.
func TestALargeVerdictFits(t *testing.T) {
	v := gate.Verdict{Decision: gate.Allow, Repository: oci.Repository{Path: "apps/web"}}
	for range 5000 {
		v.Warnings = append(v.Warnings, gate.Reason{Rule: gate.RuleVulnerabilities, Message: strings.Repeat("é", 4000)})
	}
	e := Verdict(v)
	if e.Type != VerdictAllowed {
		t.Errorf("its type is %s", e.Type)
	}
	data, err := encodeData(e.Data)
	if err != nil {
		t.Error(err)
	}
	if said := string(data); !strings.Contains(said, "é…") || strings.Contains(said, `\ufffd`) {
		t.Errorf("it says %.600s", said)
	}
}

func TestReaders(t *testing.T) {
	read := func(t *testing.T, h *Hub, after string) *Reader {
		t.Helper()
		r, leave, err := h.Read(after)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(leave)
		return r
	}
	subjects := func(t *testing.T, r *Reader, n int) (all []string) {
		t.Helper()
		for range n {
			p, _, ok := r.Next(t.Context(), nil)
			if !ok {
				t.Fatalf("it ended after %q", all)
			}
			all = append(all, p.Subject)
		}
		return all
	}
	t.Run("who comes back misses nothing", func(t *testing.T) {
		h := quiet(t)
		first := read(t, h, "")
		h.Publish(t.Context(), about("a"))
		p, _, _ := first.Next(t.Context(), nil)
		h.Publish(t.Context(), about("b"))
		h.Publish(t.Context(), about("c"))
		again := read(t, h, p.ID)
		h.Publish(t.Context(), about("d"))
		if diff := cmp.Diff(subjects(t, again, 3), []string{"b", "c", "d"}); diff != "" || again.Missed {
			t.Errorf("missed %t, %s", again.Missed, diff)
		}
	})
	t.Run("who was at another process, or away for long, gets what there is, and is told", func(t *testing.T) {
		h := quiet(t)
		h.Publish(t.Context(), about("first"))
		var id string
		r := read(t, h, "SOMEBODYELSE-1")
		if p, _, _ := r.Next(t.Context(), nil); !r.Missed || p.Subject != "first" {
			t.Errorf("missed %t, %q", r.Missed, p.Subject)
		} else {
			id = p.ID
		}
		for range ringEvents + 1 {
			h.Publish(t.Context(), about("b"))
		}
		if r := read(t, h, id); !r.Missed || len(r.past) != ringEvents {
			t.Errorf("missed %t, %d", r.Missed, len(r.past))
		}
		for _, nonsense := range []string{"-", "x", h.epoch, h.epoch + "-", h.epoch + "--1", h.epoch + "-18446744073709551615"} {
			if r := read(t, h, nonsense); !r.Missed {
				t.Errorf("%q: nothing was missed", nonsense)
			}
		}
	})
	t.Run("who is too slow is cut off, and holds up nobody", func(t *testing.T) {
		h := quiet(t)
		slow := read(t, h, "")
		for range readerBacklog + 1 {
			h.Publish(t.Context(), about("a"))
		}
		subjects(t, slow, readerBacklog)
		if _, _, ok := slow.Next(t.Context(), nil); ok {
			t.Error("it goes on")
		}
		if s := h.Stats(); s.Cut != 1 || s.Readers != 0 {
			t.Errorf("got %+v", s)
		}
	})
	t.Run("more than may do not get in, until one leaves", func(t *testing.T) {
		h := quiet(t)
		var leave func()
		for range maxReaders {
			var err error
			if _, leave, err = h.Read(""); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := h.Read(""); !errors.Is(err, ErrTooManyReaders) {
			t.Errorf("got %v", err)
		}
		leave()
		leave() // twice is as good
		read(t, h, "")
	})
	t.Run("the past takes no more memory than it may", func(t *testing.T) {
		h := quiet(t)
		for range 2 * ringBytes / maxDataBytes {
			h.Publish(t.Context(), Event{Type: Recall, Data: strings.Repeat("x", maxDataBytes-2)})
		}
		sum := 0
		for _, p := range h.ring.events {
			sum += len(p.Body)
		}
		if sum != h.ring.bytes || sum > ringBytes || sum < ringBytes/2 {
			t.Errorf("it has %d bytes, and thinks %d", sum, h.ring.bytes)
		}
	})
}

func BenchmarkPublish(b *testing.B) {
	h, err := New(Options{Source: "urn:x", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	v := gate.Verdict{Repository: oci.Repository{Path: "apps/web"}, Reasons: []gate.Reason{{Rule: gate.RuleSignatures, Message: "unsigned"}}}
	for b.Loop() {
		h.Publish(b.Context(), Verdict(v))
	}
}
