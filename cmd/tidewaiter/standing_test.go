package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestReplicasThatDisagree(t *testing.T) {
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	own := standing{ID: "own", Policies: "p", Waivers: "w", Roots: "r"}
	other := func(policies string, after time.Duration) standing {
		return standing{ID: "other", Policies: policies, Waivers: "w", Roots: "r", At: began.Add(after)}
	}
	// heard has p hear what the other says every five seconds of a time, and returns how often it was said to disagree and to be settled.
	heard := func(p *peers, policies string, from, until time.Duration) (disagreed, settled int) {
		for after := from; after < until; after += standingEvery {
			p.hear(other(policies, after), began.Add(after))
			d, s := p.compare(own, began.Add(after))
			disagreed, settled = disagreed+len(d), settled+len(s)
		}
		return disagreed, settled
	}
	counts := func(p *peers) []int {
		others, disagreeing := p.counts()
		return []int{others, disagreeing}
	}
	t.Run("are nothing to speak of while files are being replaced", func(t *testing.T) {
		p := newPeers()
		if d, s := heard(p, "new", 0, disagreementGrace); d+s != 0 {
			t.Errorf("%d said, %d settled", d, s)
		}
		if d, s := heard(p, "p", disagreementGrace, time.Minute); d+s != 0 || !cmp.Equal(counts(p), []int{1, 0}) {
			t.Errorf("%d said, %d settled, counts %v", d, s, counts(p))
		}
	})
	t.Run("are said to once, and to agree again once", func(t *testing.T) {
		p := newPeers()
		if d, s := heard(p, "new", 0, 10*time.Minute); d != 1 || s != 0 || !cmp.Equal(counts(p), []int{1, 1}) {
			t.Errorf("%d said, %d settled, counts %v", d, s, counts(p))
		}
		if d, s := heard(p, "p", 10*time.Minute, 20*time.Minute); d != 0 || s != 1 || !cmp.Equal(counts(p), []int{1, 0}) {
			t.Errorf("%d said, %d settled, counts %v", d, s, counts(p))
		}
	})
	t.Run("are settled when the other is gone", func(t *testing.T) {
		p := newPeers()
		heard(p, "new", 0, time.Minute)
		if d, s := p.compare(own, began.Add(time.Hour)); len(d) != 0 || len(s) != 1 || !cmp.Equal(counts(p), []int{0, 0}) {
			t.Errorf("%d said, %d settled, counts %v", len(d), len(s), counts(p))
		}
	})
	t.Run("are not made up by what is heard again", func(t *testing.T) {
		p := newPeers()
		heard(p, "p", 0, time.Minute)
		for after := time.Minute; after < 2*time.Minute; after += standingEvery {
			p.hear(other("p", after), began.Add(after))
			p.hear(other("old", 0), began.Add(after)) // somebody has it arrive once more
			if d, _ := p.compare(own, began.Add(after)); len(d) > 0 {
				t.Errorf("%v are said to disagree", d)
			}
		}
	})
	t.Run("with the same policies and other waivers or roots disagree too", func(t *testing.T) {
		for _, s := range []standing{{Policies: "p", Waivers: "x", Roots: "r"}, {Policies: "p", Waivers: "w", Roots: "x"}} {
			if own.agrees(s) {
				t.Errorf("%+v is said to agree", s)
			}
		}
	})
	t.Run("are not kept in mind without bound", func(t *testing.T) {
		p := newPeers()
		for n := range 2 * maxPeers {
			p.hear(standing{ID: time.Duration(n).String()}, began)
		}
		if got, _ := p.counts(); got != maxPeers {
			t.Errorf("got %d", got)
		}
	})
}
