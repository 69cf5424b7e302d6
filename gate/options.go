package gate

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// Options are what a Gate is built from. Every interface but Sightings, Attachments, Malware and Leases is needed.
type Options struct {
	Bytes       Bytes
	Releases    Releases
	Scanner     Scanner
	Advisories  Advisories
	Signatures  Signatures
	Policies    Policies
	Verdicts    Verdicts
	Inventories Inventories
	Records     Records
	// Sightings may be nil: then nothing has any age.
	Sightings Sightings
	// Attachments may be nil: then nothing is known of what is attached to a candidate but by looking.
	Attachments Attachments
	// Malware may be nil: then there is no verdict by a policy that asks for malware.
	Malware Malware
	// MalwareMaxAge is how long what was found in a layer counts. It is renewed, with nobody waiting, when half of that has gone or the
	// signatures have changed.
	MalwareMaxAge time.Duration
	// MalwareFileBytes is the size of the largest file that Malware looks into.
	MalwareFileBytes int64
	// EndOfLife returns when the distribution of an image is no longer mended, UTC; ok is false when that is not known. Without it
	// there is no verdict by policies that ask for that.
	EndOfLife func(inv Inventory) (end time.Time, ok bool)
	// SecretKinds returns the kinds of secrets in a text that a config holds, sorted, each once. Without it there is no verdict by
	// policies that ask for secrets.
	SecretKinds func(text []byte) []string
	// Kept is how signatures that were found are kept; the zero value looks for them with every judging.
	Kept Keeping
	// Leases may be nil: then no other process judges over the same records.
	Leases Leases
	Now    func() time.Time
	Log    *slog.Logger
	// Stored and Past are what [Gate.Replay] knows things by; nil for nothing.
	Stored Stored
	Past   Past
	// Observe is told how long each step took and how it ended. Nil for nobody.
	Observe func(step string, took time.Duration, err error)
	// Decided is told of every verdict made, remembered ones not. Nil for nobody.
	Decided func(Verdict)
	// Changed is told of a verdict, once recorded, that decides otherwise than the one before. It must not block, and needs Overturns.
	Changed   func(before, after Verdict)
	Overturns Overturns
	// Trace is told of spans. Nil for nobody.
	Trace Tracer
	// Workers is how many layers are read at once, over all images; at least 1.
	Workers int
	// MaxImageBytes is the largest image, compressed, whose layers are read; 0 for no limit. Beyond it there is a gap.
	MaxImageBytes int64
	// Platforms are the children of an admitted index, "linux/amd64", that are judged before anybody asks.
	Platforms []string
}

// Gate makes verdicts. It is safe for concurrent use.
type Gate struct {
	o Options
	// replay is nil in a gate that judges.
	replay *replay
	// flights has one judging per key, layers one reading per layer.
	flights, layers singleflight.Group
	// steps maps the key of a judging under way to an *atomic.Pointer[string]: the step it is at.
	steps sync.Map
	// ahead has the candidates that are being judged with nobody waiting.
	ahead   sync.Map
	workers chan struct{}
	// shares maps each upstream to a chan struct{} with its slots among the workers.
	shares     sync.Map
	statements chan struct{}
	started    chan struct{}
	// waiting has the candidates that are looked into once their verdict is given, and later the one that is now.
	waiting, later chan struct{}
	// recording is held while an inventory is recorded, so that none undoes what another adds.
	recording sync.Mutex
	// lifetime ends when Close is called, and with it every judging.
	lifetime context.Context
	end      context.CancelFunc

	mu      sync.Mutex
	closed  bool           // guarded by mu
	running sync.WaitGroup // added to only under mu, while not closed
}

// New returns a Gate. It panics when an option it cannot do without is missing.
func New(o Options) *Gate {
	for name, missing := range map[string]bool{
		"Bytes": o.Bytes == nil, "Releases": o.Releases == nil, "Scanner": o.Scanner == nil, "Advisories": o.Advisories == nil,
		"Signatures": o.Signatures == nil, "Policies": o.Policies == nil, "Verdicts": o.Verdicts == nil,
		"Inventories": o.Inventories == nil, "Records": o.Records == nil, "Now": o.Now == nil, "Log": o.Log == nil,
	} {
		if missing {
			panic("gate: option " + name + " is missing")
		}
	}
	if o.Observe == nil {
		o.Observe = func(string, time.Duration, error) {}
	}
	if o.Trace == nil {
		o.Trace = untraced{}
	}
	if o.Decided == nil {
		o.Decided = func(Verdict) {}
	}
	lifetime, end := context.WithCancel(context.Background())
	return &Gate{
		o: o, workers: make(chan struct{}, max(o.Workers, 1)), statements: make(chan struct{}, maxStatementsAtOnce), started: make(chan struct{}, maxStarted),
		waiting: make(chan struct{}, maxLater), later: make(chan struct{}, 1),
		lifetime: lifetime, end: end,
	}
}
