package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/proxy"
)

// Limits of both listeners. Those of bodies are in pace.go.
const (
	headerTimeout  = 10 * time.Second // a request line and headers arrive in one packet or two
	idleTimeout    = 2 * time.Minute  // longer than the pauses of a pull
	maxHeaderBytes = 64 << 10         // the largest bearer tokens seen are 16 KiB
)

// How long what is under way may take when the process is to end. Orchestrators kill after 30 s.
const (
	drainTimeout      = 23 * time.Second // clients, most of which are sent a layer
	adminDrainTimeout = 2 * time.Second  // operators, whose answers are small; after the clients, so that readiness is told meanwhile
)

func newServe(inv *invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the proxy",
		Long: `Serve the distribution API to clients, and pages, admin API, metrics and health to operators on another address.

Without a configuration it listens on loopback only, keeps everything under ./tidewaiter-data, pulls from the well-known public
registries, and judges by the shipped policy, which denies critical vulnerabilities that have a fix. That policy needs advisory data:
without any, from advisories.source, advisories.path or "tidewaiter advisories import", every image is denied, and says so.

SIGHUP reads policies, trust files and advisories again. SIGTERM ends the process: it is not ready any more, what is being sent is
finished, and whoever waits for a verdict is told to come back. A second SIGTERM ends it at once.`,
		Example: "  tidewaiter serve --config /etc/tidewaiter/tidewaiter.yaml",
		Args:    exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadInstallation(inv.configFile)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), c, newLogger(inv.stderr, c.Log.Level, c.Log.Format), nil)
		},
	}
	inv.withConfig(cmd)
	return cmd
}

// addresses are where a server came to listen.
type addresses struct{ registry, admin string }

// serve runs until ctx ends: open, build, run, shut down in reverse. listening, when not nil, is told where once requests are taken.
func serve(ctx context.Context, c *config, log *slog.Logger, listening func(addresses)) (err error) {
	// Open.
	in, err := openInstance(ctx, c, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.close()) }()
	if err := in.openAccess(); err != nil {
		return err
	}
	if err := in.openStatements(); err != nil {
		return err
	}
	clients, err := openClientCAs(c, log)
	if err != nil {
		return err
	}
	registryListener, err := listen(ctx, c, c.Listen.Registry, clients, log)
	if err != nil {
		return err
	}
	defer func() { _ = registryListener.Close() }() // closed already by its server, unless that never ran
	adminListener, err := listen(ctx, c, c.Listen.Admin, clients, log)
	if err != nil {
		return err
	}
	defer func() { _ = adminListener.Close() }() // as above

	// Build. Everything that is to end before the servers do ends with ctx.
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	at := addresses{registry: registryListener.Addr().String(), admin: adminListener.Addr().String()}
	registry, admin := buildHandlers(ctx, in, at)

	// Run.
	failed := make(chan error, 2) // one for each server
	var running sync.WaitGroup
	running.Go(func() {
		if err := in.policies.Watch(ctx); err != nil && ctx.Err() == nil {
			log.ErrorContext(ctx, "policy files are not watched any more; SIGHUP still reads them", "err", err)
		}
	})
	running.Go(func() { in.keepFresh(ctx) })
	running.Go(func() { in.meet(ctx) })
	running.Go(func() { in.tend(ctx) })
	running.Go(func() { in.keepRoom(ctx) })
	running.Go(func() { in.trail.Run(ctx) })
	running.Go(func() { in.rejudger.Run(ctx) })
	running.Go(func() { in.thin(ctx) })
	in.deliver()
	if c.forwards() {
		running.Go(func() { in.lead(ctx, "forward", in.forwarder.Run) })
	}
	if in.statements != nil {
		running.Go(func() { in.statements.Run(ctx) })
	}
	running.Go(func() { in.watchAdvisories(ctx) })
	running.Go(func() { in.watchMalware(ctx) })
	running.Go(func() { in.fetchAdvisories(ctx) })
	servers := []*http.Server{newServer(clients.guarding(registry), log), newServer(clients.guarding(admin), log)}
	listeners := []*bounded{newBounded(registryListener, maxConnections, log), newBounded(adminListener, maxAdminConnections, log)}
	for i, l := range listeners {
		servers[i].ConnState = l.changed
		running.Go(func() {
			if err := servers[i].Serve(l); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serving %s: %w", l.Addr(), err)
			}
		})
	}
	in.announce(ctx, at)
	if listening != nil {
		listening(at)
	}
	var failure error
	select {
	case <-ctx.Done():
	case failure = <-failed:
	}

	// Shut down. From here on the process is not ready, and nobody waits for a verdict. What is being sent is finished.
	log.InfoContext(ctx, "stopping")
	stop()
	for i, timeout := range []time.Duration{drainTimeout, adminDrainTimeout} {
		drain(ctx, servers[i], timeout, log)
	}
	running.Wait()
	return failure
}

// drain lets a server finish what is under way; what still runs at the end of the time is cut off.
func drain(ctx context.Context, s *http.Server, timeout time.Duration, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		log.WarnContext(ctx, "requests were cut off", "err", err)
		_ = s.Close() // the second attempt; the first has just been logged
	}
}

// waits ends what waits for a verdict when the process is to end. The judging itself goes on, and what is recorded of it by the time
// the process ends is not lost. It does not touch what is being sent, which the end of a request's own context would break off.
type waits struct {
	judge proxy.Judge
	// until ends the waits.
	until context.Context
}

// Judge implements proxy.Judge.
func (w waits) Judge(ctx context.Context, c gate.Candidate) (gate.Verdict, error) {
	hold, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(w.until, cancel)()
	v, err := w.judge.Judge(hold, c)
	if w.until.Err() == nil || ctx.Err() != nil || !errors.Is(err, context.Canceled) {
		return v, err
	}
	ended := &gate.NoVerdict{Step: "waiting", Err: &oci.Error{Code: oci.CodeUnavailable, Message: "this proxy is stopping; ask again"}}
	if during, ok := errors.AsType[*gate.NoVerdict](err); ok {
		ended.Step = during.Step
	}
	return gate.Verdict{}, ended
}

// Start implements proxy.Judge.
func (w waits) Start(c gate.Candidate) { w.judge.Start(c) }

// JudgeTag implements proxy.Judge.
func (w waits) JudgeTag(c gate.Candidate, tag string) gate.Verdict { return w.judge.JudgeTag(c, tag) }

// buildHandlers returns what answers clients and what answers operators. When ctx ends so do readiness and the waits for verdicts.
func buildHandlers(ctx context.Context, in *instance, at addresses) (registry, admin http.Handler) {
	c := in.config
	adminURL := c.Listen.AdminURL
	if adminURL == "" {
		adminURL = "http://" + at.admin
		if c.Listen.TLS.Cert != "" {
			adminURL = "https://" + at.admin
		}
	}
	ready := func(asking context.Context) error {
		if ctx.Err() != nil {
			return errStopping
		}
		return in.ready(asking)
	}
	p := proxy.New(proxy.Options{
		Callers: in.access, Rights: in.access,
		Judge: waits{judge: in.gate, until: ctx}, Released: in.quarantine.Released(), Resolver: in.tracedResolver(), Referrers: in.contents(), History: in.ledger,
		Trail: in.trail, LastGood: lastGood{in.policies, in.trail, time.Now},
		Denied: in.asked, Hosted: in.proxied(), Statements: in.stated(), Log: in.log, DefaultUpstream: c.DefaultUpstream, AdminURL: strings.TrimSuffix(adminURL, "/"), Hold: c.Gate.Hold, Platforms: c.Gate.Platforms,
	})
	in.meters.watch(in, p.Metrics()...)
	in.meters.trail.watch(in.trail, in.meters.registry)
	var reviewers console.Access // nil for everybody who reaches the address
	if c.hasReviewers() {
		reviewers = in.access
	}
	return in.withTokens(in.traced(p)), console.New(console.Options{
		Access: reviewers, Review: in.reviewed(), Trail: in.trail, Judge: whole{in},
		Images: judgedImages{in.ledger}, Audit: in.audit, Statements: in.shownStatements(),
		Operators: in.operators(), Events: in.events, Letters: in.events, Until: ctx,
		History: in.ledger, Resolver: in.contents(), Hosts: in.hosted.Hosts, Metrics: in.meters.registry, Log: in.log, Ready: ready,
		DefaultUpstream: c.DefaultUpstream, Version: version, Unsafe: c.unsafe(), Advisories: in.advisoryFacts, Policy: in.shownPolicy(),
	})
}

// announce says at start what the process goes by.
func (in *instance) announce(ctx context.Context, at addresses) {
	snapshot := in.advisories.Snapshot()
	in.log.InfoContext(ctx, "serving", "version", version, "registry", at.registry, "admin", at.admin, "upstreams", in.upstreams.Hosts(),
		"policy", in.policies.Current().Revision, "roots", in.policies.Roots().Revision, "snapshot", snapshot.ID, "sandbox", in.layers.Sandbox())
	for _, option := range in.config.unsafe() {
		in.log.WarnContext(ctx, "an unsafe option is on", "option", option)
	}
	if snapshot.ID == "" {
		in.log.WarnContext(ctx, "there is no advisory data: policies that ask for vulnerabilities deny every image; set advisories.source, or import some")
	} else if !snapshot.Until.IsZero() && !time.Now().Before(snapshot.Until) {
		in.log.WarnContext(ctx, "the advisory data is older than advisories.max_age: that is a gap, which denies", "built", snapshot.UpdatedAt)
	}
	if !in.config.hasReviewers() && !isLoopback(in.config.Listen.Admin) {
		in.log.WarnContext(ctx, "whoever reaches listen.admin can see what was decided; grant review to somebody to have others asked who they are")
	}
	if !in.audit.Durable() {
		in.log.WarnContext(ctx, "the audit log goes to this log alone; set audit.path to keep it, chained")
	}
	if in.config.Redis.SealKeyFile == "" {
		in.log.WarnContext(ctx, "the seal key lies in the storage it seals; set redis.seal_key_file to keep it elsewhere")
	}
}

// keepFresh reads what is decided by again when asked to by SIGHUP, and looks at the advisories every so often.
func (in *instance) keepFresh(ctx context.Context) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	var due <-chan time.Time
	if every := in.config.Advisories.Refresh; every > 0 {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		due = ticker.C
	}
	for {
		select {
		case <-hangup:
			in.reload(ctx)
		case <-due:
			in.reloadAdvisories(ctx)
		case <-ctx.Done():
			return
		}
	}
}

func newServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: paced(h), DisableGeneralOptionsHandler: true, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
