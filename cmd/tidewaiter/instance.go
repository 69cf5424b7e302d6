package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/advisories"
	"github.com/tidewaiter/tidewaiter/audit"
	"github.com/tidewaiter/tidewaiter/cache"
	"github.com/tidewaiter/tidewaiter/eviction"
	"github.com/tidewaiter/tidewaiter/forward"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/hosted"
	"github.com/tidewaiter/tidewaiter/ledger"
	"github.com/tidewaiter/tidewaiter/malware"
	"github.com/tidewaiter/tidewaiter/notify"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/policy"
	"github.com/tidewaiter/tidewaiter/quarantine"
	"github.com/tidewaiter/tidewaiter/rejudge"
	"github.com/tidewaiter/tidewaiter/review"
	"github.com/tidewaiter/tidewaiter/scan"
	"github.com/tidewaiter/tidewaiter/seal"
	"github.com/tidewaiter/tidewaiter/signing"
	"github.com/tidewaiter/tidewaiter/signing/kms"
	"github.com/tidewaiter/tidewaiter/simulation"
	"github.com/tidewaiter/tidewaiter/tracing"
	"github.com/tidewaiter/tidewaiter/trail"
	"github.com/tidewaiter/tidewaiter/upstream"
)

// storageThreads bounds the opens and stats the storage driver has under way; transfers are not bounded by it.
const storageThreads = 100

// instance is the gate with everything around it, whoever it then works for: a server, a single check, the demo.
type instance struct {
	config     *config
	log        *slog.Logger
	meters     *meters
	policies   *policy.Files
	advisories *scan.Advisories
	updater    *advisories.Updater // nil unless advisories are fetched
	layers     *scan.Layers
	malware    *malware.Clamd // nil unless malware is looked for
	storage    storage
	writable   writability
	ledger     *ledger.Ledger
	events     *notify.Hub
	tracer     *tracing.Tracer
	deliver    func() // begins to deliver events, until close
	verdicts   *cache.Verdicts
	upstreams  *upstream.Registries
	quarantine *quarantine.Quarantine
	uploads    *quarantine.Uploads
	room       *quarantine.Room
	evictor    *eviction.Evictor
	waivers    *review.Waivers
	askers     *review.Askers
	hosted     *hosted.Repositories
	key        seal.Key
	audit      *audit.Log // these two, and statements, only while serving
	access     *access.Control
	statements *signing.Statements // nil unless verdicts are stated
	forwarder  *forward.Forwarder
	trail      *trail.Trail
	rejudger   *rejudge.Rejudger
	simulator  *simulation.Simulator
	gate       *gate.Gate
	fleet      *cache.Fleet
	outbox     chan saying
	// reread has a value when waivers are to be read again.
	reread  chan struct{}
	peers   *peers
	closers []func() error // in the order of opening
}

// openInstance opens, in this order: what is decided by, where things are kept, where they come from, what examines them, and the
// gate that joins it all. Whoever gets an instance closes it.
func openInstance(ctx context.Context, c *config, log *slog.Logger) (*instance, error) {
	return openShown(ctx, c, log, nil)
}

// openShown is openInstance with a bar, which may be nil, that tells of the blobs being fetched.
func openShown(ctx context.Context, c *config, log *slog.Logger, bar *progress) (_ *instance, err error) {
	in := &instance{config: c, log: log, meters: newMeters()} // not a named result: those that return nil would close that
	defer func() {
		if err != nil {
			err = errors.Join(err, in.close())
		}
	}()

	// What is decided by.
	if in.policies, err = policy.Open(ctx, c.PolicyFiles, c.TrustFiles, time.Now, c.usable, log); err != nil {
		return nil, usageError(err)
	}
	if in.advisories, err = openAdvisories(ctx, c, log); errors.Is(err, fs.ErrNotExist) {
		return nil, usageError(err)
	} else if err != nil {
		return nil, err
	}
	in.closers = append(in.closers, in.advisories.Close)
	if err = in.openUpdater(); err != nil {
		return nil, err
	}

	if err = in.openTracer(ctx); err != nil {
		return nil, err
	}

	// Where things are kept.
	if in.storage, err = c.openStorage(ctx); err != nil {
		return nil, err
	}
	if in.key, err = openSealKey(c, in.storage.root); err != nil {
		return nil, err
	}
	in.ledger = ledger.New(in.storage.driver, in.key, log, time.Now)
	if err = in.openEvents(); err != nil {
		return nil, err
	}
	in.openTrail()
	if in.verdicts, err = cache.New(cache.Options{RedisURL: c.Redis.URL, Key: in.key, Logger: log}); err != nil {
		return nil, usageError(err) // nothing is connected to yet: what is wrong is what was written
	}
	in.closers = append(in.closers, in.verdicts.Close)

	// Where they come from.
	dialled, err := c.dialled()
	if err != nil {
		return nil, usageError(err)
	}
	in.upstreams, err = upstream.New(dialled, upstream.Options{UserAgent: "tidewaiter/" + version, Log: log, Observe: in.meters.exchange, Trace: in.traceExchange})
	if err != nil {
		return nil, usageError(err)
	}
	in.closers = append(in.closers, func() error { in.upstreams.Close(); return nil })
	in.quarantine, err = quarantine.New(shown{in.upstreams, bar}, in.storage.driver, in.storage.root, filepath.Join(in.storage.local, "spool"), log)
	if err != nil {
		return nil, err
	}
	in.closers = append(in.closers, in.quarantine.Close)
	in.openFleet()
	in.uploads = in.quarantine.Uploads(int64(c.Gate.MaxImageBytes), time.Now)
	in.openEviction()
	if err := in.openHosted(); err != nil {
		return nil, err
	}
	if err := in.openReview(ctx); err != nil {
		return nil, err
	}

	// What examines them.
	// One more than the gate's, for what is looked for with nobody waiting.
	in.layers, err = scan.NewLayers(scan.Options{Workers: c.Gate.Workers + 1, TempDir: in.quarantine.TempDir(), UnsafeUnsandboxed: c.Gate.UnsafeUnsandboxedScan, Logger: log})
	if err != nil {
		return nil, err
	}
	in.closers = append(in.closers, in.layers.Close)
	if err := in.openMalware(); err != nil {
		return nil, err
	}
	aliases, revision := in.signerAliases()
	verifier, err := signing.New(signing.Options{
		Registry: in.contents(), Roots: in.policies.Roots, SignaturesIn: in.upstreams.SignaturesIn, ReferenceAliases: aliases, Revision: revision,
		KeyService: kms.Client{Env: environment}.PublicKey,
	})
	if err != nil {
		return nil, err
	}

	in.gate = gate.New(gate.Options{
		Bytes: in.quarantine, Releases: releases{in.quarantine, in.hosted}, Scanner: in.layers, Advisories: in.advisories, Signatures: verifier,
		Policies: in.waivers, Verdicts: in.verdicts, Inventories: in.ledger, Records: audited{records{in.ledger, in.hosted}, in}, Attachments: attachments{in.hosted}, Sightings: in.trail,
		Leases: in.leases(), Malware: in.malwareScanner(), MalwareMaxAge: c.Malware.MaxAge, MalwareFileBytes: int64(c.Malware.MaxFileBytes),
		EndOfLife: scan.EndOfLife, SecretKinds: scan.NewSecrets().Kinds,
		Now: time.Now, Log: log, Observe: in.stepped, Decided: in.decided, Overturns: in.ledger, Changed: in.changed,
		Kept:   gate.Keeping{Records: in.ledger, For: c.Gate.RecheckSignatures},
		Trace:  judgingTracer{in.tracer},
		Stored: in.quarantine, Past: records{in.ledger, in.hosted},
		Workers: c.Gate.Workers, MaxImageBytes: int64(c.Gate.MaxImageBytes), Platforms: c.Gate.Platforms,
	})
	in.closers = append(in.closers, func() error { in.gate.Close(); return nil })
	in.openForwarder()
	in.openRejudger()
	in.openSimulator()
	return in, nil
}

// close shuts down in the reverse order of opening.
func (in *instance) close() error {
	var errs []error
	for _, closer := range slices.Backward(in.closers) {
		errs = append(errs, closer())
	}
	return errors.Join(errs...)
}

// errStorage and errStopping are all that whoever asks is told; why is for the log.
var (
	errStorage  = errors.New("the storage takes no writes")
	errStopping = errors.New("stopping")
)

// ready returns why requests cannot be served: the storage takes no writes.
func (in *instance) ready(ctx context.Context) error {
	if err := in.writable.try(ctx, in.storage, time.Now()); err != nil {
		in.log.WarnContext(ctx, "the storage takes no writes", "err", err)
		return errStorage
	}
	return nil
}

// tryWriting writes a file in dir, as little as finds out whether there is room, and removes it.
func tryWriting(dir string) error {
	f, err := os.CreateTemp(dir, ".ready-")
	if err != nil {
		return err
	}
	_, err = f.WriteString("ready\n")
	return errors.Join(err, f.Close(), os.Remove(f.Name()))
}

// reload reads policies, trust and advisories again. What is bad stays as it was; the log says so.
func (in *instance) reload(ctx context.Context) {
	if err := in.policies.Reload(ctx); err != nil {
		in.log.ErrorContext(ctx, "the policies stay as they were", "err", err)
	}
	in.reloadAdvisories(ctx)
	in.access.Reload(ctx)
}

func (in *instance) reloadAdvisories(ctx context.Context) {
	changed, err := in.advisories.Reload(ctx)
	if err != nil {
		in.log.ErrorContext(ctx, "the advisories stay as they were", "err", err)
	}
	if changed {
		snapshot := in.advisories.Snapshot()
		in.log.InfoContext(ctx, "advisories replaced", "snapshot", snapshot.ID, "built", snapshot.UpdatedAt)
		in.rejudger.Wake()
	}
	in.advisoriesReloaded(ctx, changed, err)
}

// openSealKey returns the key records and remembered verdicts are sealed with: the one configured, or one that lies beside the
// storage, which guards against accidents and not against whoever can write there.
func openSealKey(c *config, root string) (seal.Key, error) {
	if c.Redis.SealKeyFile != "" {
		key, err := seal.LoadKey(c.Redis.SealKeyFile)
		if err != nil {
			return seal.Key{}, usageError(err)
		}
		return key, nil
	}
	if err := os.MkdirAll(root, 0o750); err != nil {
		return seal.Key{}, err
	}
	return seal.CreateKey(filepath.Join(root, sealKeyName))
}

// sealKeyName is the seal key's file in the storage's root, unless the configuration names another.
const sealKeyName = "seal.key"

// loadSealKey is openSealKey for those who only check what was sealed: it makes no key.
func loadSealKey(c *config) (seal.Key, error) {
	return seal.LoadKey(cmp.Or(c.Redis.SealKeyFile, filepath.Join(c.Storage.Filesystem.Root, sealKeyName)))
}

// signerAliases returns the further names by which signers know repositories, those of the hosts behind an upstream's name and those
// of this proxy, and a revision of them.
func (in *instance) signerAliases() (func(oci.Repository) []string, string) {
	hosts := map[string][]string{"": ownNames(in.config)}
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%q", hosts[""]) // a hash never fails
	for _, u := range in.config.upstreams() {
		_, _ = fmt.Fprintf(h, "%q %q", u.Host, u.SignaturesIn)
		for _, raw := range append([]string{u.URL}, u.Mirrors...) {
			if parsed, err := url.Parse(raw); err == nil && parsed.Host != "" && parsed.Host != u.Host {
				hosts[u.Host] = append(hosts[u.Host], parsed.Host)
				_, _ = fmt.Fprintf(h, " %q", parsed.Host)
			}
		}
	}
	return func(repo oci.Repository) []string {
		var names []string
		for _, host := range hosts[repo.Upstream] {
			names = append(names, host+"/"+repo.Path)
		}
		return names
	}, hex.EncodeToString(h.Sum(nil))
}

// resolver is the upstreams as the proxy asks them: for what clients may see.
type resolver struct{ *upstream.Registries }

// Resolve returns the descriptor of reference.
func (r resolver) Resolve(ctx context.Context, repo oci.Repository, reference string) (oci.Descriptor, bool, error) {
	found, err := r.Registries.Resolve(ctx, repo, reference)
	return found.Descriptor, found.Stale, err
}

// newLogger returns the logger the configuration asks for. Its levels and formats were checked when it was read.
func newLogger(w io.Writer, level, format string) *slog.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		l = slog.LevelInfo
	}
	o := &slog.HandlerOptions{Level: l}
	if format == "text" {
		return slog.New(slog.NewTextHandler(w, o))
	}
	return slog.New(slog.NewJSONHandler(w, o))
}
