package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/tidewaiter/tidewaiter/cache"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/hosted"
	"github.com/tidewaiter/tidewaiter/ledger"
	"github.com/tidewaiter/tidewaiter/oci"
)

// What replicas announce. Whoever hears one reads what it is about from the storage, so none is believed further than that.
const (
	topicVerdict   = "verdict"   // a verdict was recorded; the payload is a candidate's reference by digest
	topicWithdrawn = "withdrawn" // a candidate must not be served from memory; the payload as above
	topicRecorded  = "recorded"  // something happened in a hosted repository; the payload is its name
	topicStanding  = "standing"  // what a replica judges by; the payload is a standing
	topicWaivers   = "waivers"   // people decided something about waivers; there is no payload
)

// outboxSize is how many announcements wait to be sent. Beyond it some are not made: the others read what is new within seconds anyway.
const outboxSize = 1024

// saying is an announcement that waits to be made.
type saying struct {
	topic   string
	payload []byte
}

// openFleet makes the instance one of those that share its Redis, if it has one.
func (in *instance) openFleet() {
	in.fleet, in.outbox, in.peers = in.verdicts.Fleet(), make(chan saying, outboxSize), newPeers()
	in.reread = make(chan struct{}, 1)
	if in.fleet.Shared() {
		in.quarantine.ShareFetches(fetches{in.fleet})
	}
}

// tell announces something to the other replicas, by and by. It does not block.
func (in *instance) tell(topic string, payload []byte) {
	if !in.fleet.Shared() {
		return
	}
	select {
	case in.outbox <- saying{topic, payload}:
	default:
	}
}

// heard takes what another replica announced. It does not block, and believes nothing: an announcement may be an old one.
func (in *instance) heard(topic string, payload []byte) {
	switch topic {
	case topicVerdict:
		if c, ok := in.parseCandidate(payload); ok {
			in.ledger.Outdate(c.Repository)
			in.outdateHosted(c.Repository)
		}
	case topicWithdrawn:
		if c, ok := in.parseCandidate(payload); ok {
			in.verdicts.Forget(c)
			_ = in.quarantine.Withdraw(context.Background(), c, false) // it fails only to drop bytes; asked for again, it is judged
			in.ledger.Outdate(c.Repository)
			in.outdateHosted(c.Repository)
		}
	case topicRecorded:
		if repo, err := oci.NewRepository("", string(payload)); err == nil {
			in.outdateHosted(repo)
		}
	case topicWaivers:
		in.rereadWaivers()
	case topicStanding:
		var s standing
		if err := json.Unmarshal(payload, &s); err == nil {
			in.peers.hear(s, time.Now())
		}
	}
}

// connected is told that announcements arrive from now on, and that any may have been missed.
func (in *instance) connected() {
	in.ledger.OutdateAll()
	in.hosted.OutdateAll()
	in.forwarder.Wake()
	in.rereadWaivers()
}

// rereadWaivers has the waivers read again soon. It does not block.
func (in *instance) rereadWaivers() {
	select {
	case in.reread <- struct{}{}:
	default: // they will be anyway
	}
}

func (in *instance) outdateHosted(repo oci.Repository) {
	if repo.Upstream == "" {
		in.hosted.Outdate(repo)
		in.forwarder.Wake()
	}
}

func (in *instance) parseCandidate(payload []byte) (gate.Candidate, bool) {
	ref, err := oci.ParseReference(string(payload), in.config.DefaultUpstream, in.hosted.Hosts)
	return gate.Candidate{Repository: ref.Repository, Digest: ref.Digest}, err == nil && ref.Digest != ""
}

// meet keeps up with the other replicas until ctx ends: it says what there is to say, and what this one judges by, and hears them.
func (in *instance) meet(ctx context.Context) {
	if !in.fleet.Shared() {
		return
	}
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		in.fleet.Listen(ctx, cache.Listener{Connected: in.connected, Heard: in.heard})
	}()
	defer func() { <-listening }()
	ticker := time.NewTicker(standingEvery)
	defer ticker.Stop()
	for {
		select {
		case s := <-in.outbox:
			in.announceNow(ctx, s)
		case <-in.reread:
			if err := in.waivers.Refresh(ctx); err != nil && ctx.Err() == nil {
				in.log.WarnContext(ctx, "reading the waivers again", "err", err)
			}
		case <-ticker.C:
			own := in.standing(time.Now())
			if payload, err := json.Marshal(own); err == nil {
				in.announceNow(ctx, saying{topicStanding, payload})
			}
			in.reportPeers(ctx, own)
		case <-ctx.Done():
			return
		}
	}
}

func (in *instance) announceNow(ctx context.Context, s saying) {
	if err := in.fleet.Announce(ctx, s.topic, s.payload); err != nil && ctx.Err() == nil {
		in.log.DebugContext(ctx, "announcing to other replicas", "topic", s.topic, "err", err)
	}
}

// leasePatience is how long a lease is waited for by whoever has other things to do while another replica has it.
const leasePatience = 2 * time.Second

// lease asks for work that one of several replicas does at a time, until release is called. Where nobody can say who does it, it is ours.
func (in *instance) lease(ctx context.Context, name string) (held bool, release func()) {
	if !in.fleet.Shared() {
		return true, func() {}
	}
	waiting, cancel := context.WithTimeout(ctx, leasePatience)
	defer cancel()
	l, err := in.fleet.Acquire(waiting, name)
	switch {
	case err == nil:
		return true, l.Release
	case waiting.Err() != nil:
		return false, nil
	default:
		return true, func() {}
	}
}

// judgings are the leases on judgings.
type judgings struct{ fleet *cache.Fleet }

// leases returns nil when there is nobody to share with.
func (in *instance) leases() gate.Leases {
	if !in.fleet.Shared() {
		return nil
	}
	return judgings{in.fleet}
}

// Acquire implements gate.Leases.
func (j judgings) Acquire(ctx context.Context, key gate.Key) (release func(), err error) {
	return acquire(ctx, j.fleet, "judging:"+key.String())
}

// fetches are the leases on fetches.
type fetches struct{ fleet *cache.Fleet }

// Acquire implements quarantine.Leases.
func (f fetches) Acquire(ctx context.Context, name string) (release func(), err error) {
	return acquire(ctx, f.fleet, name)
}

func acquire(ctx context.Context, fleet *cache.Fleet, name string) (release func(), err error) {
	l, err := fleet.Acquire(ctx, name)
	if err != nil {
		return nil, err
	}
	return l.Release, nil
}

// journal returns the journal of hosted repositories.
func (in *instance) journal() hosted.Journal {
	return announced{in.ledger.Journal(), func(repo oci.Repository) { in.tell(topicRecorded, []byte(repo.Path)) }}
}

// announced is a journal whose events the other replicas are told of.
type announced struct {
	ledger.Journal
	tell func(repo oci.Repository)
}

var _ hosted.Journal = announced{}

// Append implements hosted.Journal.
func (j announced) Append(ctx context.Context, repo oci.Repository, e hosted.Event) (name string, err error) {
	name, err = j.Journal.Append(ctx, repo, e)
	j.tell(repo) // also when it failed: it may be there
	return name, err
}

// leadAlone is how long a replica that cannot learn whether another leads does so itself before it asks again. Asking cuts short what is
// being done: this is longer than an image takes to be copied.
const leadAlone = 15 * time.Minute

// lead runs do while this replica is the one of the fleet to do it, until ctx ends. Its context ends when another may be.
func (in *instance) lead(ctx context.Context, work string, do func(context.Context)) {
	for ctx.Err() == nil {
		l, err := in.fleet.Acquire(ctx, work)
		if err != nil {
			alone, cancel := context.WithTimeout(ctx, leadAlone)
			do(alone)
			cancel()
			continue
		}
		leading, cancel := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			select {
			case <-l.Lost():
			case <-leading.Done():
			}
			cancel()
		}()
		do(leading)
		cancel()
		<-ended
		l.Release()
	}
}
