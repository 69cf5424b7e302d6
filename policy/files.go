package policy

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
)

// Files are the policy and trust files, and what they said when they were last free of problems. They are made by [Open] and safe
// for concurrent use.
type Files struct {
	policies, trust []string
	now             func() time.Time
	log             *slog.Logger
	// usable reports, as an error, why policies and trust roots that are free of problems cannot be used here all the same.
	usable func(*gate.PolicySet, *gate.TrustRoots) error

	// reading is held while the files are read, so that what was read later is in force later. It guards keyFiles.
	reading sync.Mutex
	// keyFiles are the files the trust files named when last read, whether they could be read or not.
	keyFiles []string

	inForce atomic.Pointer[rules]
	told    Told // set by [Files.Tell]
}

// rules is what the files say, read together. It is never modified.
type rules struct {
	set   *gate.PolicySet
	roots *gate.TrustRoots
}

// Open reads policy and trust files, which are then in force together. Without policy files the shipped default policy is in
// force, without trust files nobody is trusted. now is the time waivers are measured against. usable is asked about each set of policies
// and trust roots before it comes into force, whether there is all they ask for; nil asks nobody.
//
// Errors: as [Files.Reload].
func Open(
	ctx context.Context, policies, trust []string, now func() time.Time, usable func(*gate.PolicySet, *gate.TrustRoots) error, log *slog.Logger,
) (*Files, error) {
	f := &Files{policies: slices.Clone(policies), trust: slices.Clone(trust), now: now, usable: usable, log: log}
	if err := f.Reload(ctx); err != nil {
		return nil, err
	}
	return f, nil
}

// Current implements [gate.Policies].
func (f *Files) Current() *gate.PolicySet { return f.inForce.Load().set }

// Roots returns the trust roots in force now. They are never nil and never modified.
func (f *Files) Roots() *gate.TrustRoots { return f.inForce.Load().roots }

// Reload reads the files again. Unless all of them are free of problems, and every authority the policies ask for is in the trust
// files, what was in force stays in force as a whole.
//
// Errors: [*Problems] for everything wrong with what the files say; otherwise a file could not be read, or what they say not be used.
func (f *Files) Reload(ctx context.Context) error {
	f.reading.Lock()
	defer f.reading.Unlock()
	read, err := f.read()
	if err != nil {
		f.tellRefused(ctx, err)
		return err
	}
	if err := f.tellChanged(ctx, read); err != nil {
		return err
	}
	before := f.inForce.Swap(&read)
	f.announce(ctx, before, read)
	return nil
}

// read returns what the files say now. The caller holds reading.
func (f *Files) read() (rules, error) {
	set, policyErr := Load(f.policies, f.now())
	roots, keyFiles, trustErr := loadTrust(f.trust)
	f.keyFiles = keyFiles
	if err := joined(policyErr, trustErr); err != nil {
		return rules{}, err
	}
	if err := CheckAuthorities(set, roots); err != nil {
		return rules{}, err
	}
	if f.usable != nil {
		if err := f.usable(set, roots); err != nil {
			return rules{}, fmt.Errorf("the policies and trust roots cannot be used: %w", err)
		}
	}
	return rules{set, roots}, nil
}

// announce logs what has come into force, and again each time what is unsafe about it.
func (f *Files) announce(ctx context.Context, before *rules, read rules) {
	if before != nil && before.revisions() == read.revisions() {
		f.log.DebugContext(ctx, "policy files read, they say the same as before")
		return
	}
	f.log.InfoContext(ctx, "policy in force",
		"policies", len(read.set.Policies), "policy_revision", read.set.Revision,
		"waivers", len(read.set.Waivers), "waiver_revision", read.set.WaiverRevision,
		"authorities", len(read.roots.Authorities), "roots_revision", read.roots.Revision)
	for _, p := range read.set.Policies {
		if p.Image.UnsafeHostileConfig {
			f.log.WarnContext(ctx, "unsafe policy: configs that are known to break runtimes are admitted", "policy", p.Name)
		}
		if p.Image.UnsafeForeignLayers {
			f.log.WarnContext(ctx, "unsafe policy: clients may fetch layers from elsewhere, unexamined", "policy", p.Name)
		}
	}
}

// paths returns every file whose content matters.
func (f *Files) paths() []string {
	f.reading.Lock()
	defer f.reading.Unlock()
	return slices.Concat(f.policies, f.trust, f.keyFiles)
}
