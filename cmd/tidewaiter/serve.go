package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/proxy"
)

// Limits of both listeners. Bodies have no deadline: a slow node may take an hour over a layer.
const (
	headerTimeout   = 10 * time.Second // a request line and headers arrive in one packet or two
	idleTimeout     = 2 * time.Minute  // longer than the pauses of a pull
	maxHeaderBytes  = 64 << 10         // the largest bearer tokens seen are 16 KiB
	shutdownTimeout = 25 * time.Second // orchestrators kill after 30 s
)

func newServe(inv *invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the proxy",
		Long: `Serve the distribution API to clients, and pages, admin API, metrics and health to operators on another address.

Without a configuration it listens on loopback only, keeps everything under ./tidewaiter-data, pulls from the well-known public
registries, and judges by the shipped policy, which denies critical vulnerabilities that have a fix. That policy needs advisory data:
without advisories.path every image is denied, and says so.

SIGHUP reads policies, trust files and advisories again. SIGTERM finishes what is under way.`,
		Example: "  tidewaiter serve --config /etc/tidewaiter/tidewaiter.yaml",
		Args:    exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(inv.configFile)
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
	registryListener, err := listen(ctx, c, c.Listen.Registry)
	if err != nil {
		return err
	}
	defer func() { _ = registryListener.Close() }() // closed already by its server, unless that never ran
	adminListener, err := listen(ctx, c, c.Listen.Admin)
	if err != nil {
		return err
	}
	defer func() { _ = adminListener.Close() }() // as above

	// Build.
	at := addresses{registry: registryListener.Addr().String(), admin: adminListener.Addr().String()}
	registry, admin, err := buildHandlers(in, at)
	if err != nil {
		return err
	}

	// Run.
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	failed := make(chan error, 2) // one for each server
	var running sync.WaitGroup
	running.Go(func() {
		if err := in.policies.Watch(ctx); err != nil && ctx.Err() == nil {
			log.ErrorContext(ctx, "policy files are not watched any more; SIGHUP still reads them", "err", err)
		}
	})
	running.Go(func() { in.keepFresh(ctx) })
	servers := []*http.Server{newServer(registry, log), newServer(admin, log)}
	for i, l := range []net.Listener{registryListener, adminListener} {
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

	// Shut down. What is being sent is finished; what still runs at the end of the time is cut off.
	log.InfoContext(ctx, "stopping")
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	for _, s := range servers {
		if err := s.Shutdown(ending); err != nil {
			log.WarnContext(ending, "requests were cut off", "err", err)
			_ = s.Close() // the second attempt; the first has just been logged
		}
	}
	stop()
	running.Wait()
	return failure
}

// buildHandlers returns what answers clients and what answers operators.
func buildHandlers(in *instance, at addresses) (registry, admin http.Handler, err error) {
	c := in.config
	resolver, err := in.resolver()
	if err != nil {
		return nil, nil, err
	}
	adminURL := c.Listen.AdminURL
	if adminURL == "" {
		adminURL = "http://" + at.admin
		if c.Listen.TLS.Cert != "" {
			adminURL = "https://" + at.admin
		}
	}
	p := proxy.New(proxy.Options{
		Judge: in.gate, Released: in.quarantine.Released(), Resolver: resolver, Referrers: in.upstreams, History: in.ledger, Log: in.log,
		DefaultUpstream: c.DefaultUpstream, AdminURL: adminURL, Hold: c.Gate.Hold, Platforms: c.Gate.Platforms,
	})
	in.meters.watch(in, p.Metrics()...)
	return p, console.New(console.Options{
		History: in.ledger, Resolver: resolver, Metrics: in.meters.registry, Log: in.log, Ready: in.ready,
		DefaultUpstream: c.DefaultUpstream, Version: version, Unsafe: c.unsafe(),
	}), nil
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
		in.log.WarnContext(ctx, "there is no advisory data: policies that ask for vulnerabilities deny every image; set advisories.path")
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
		Handler: h, DisableGeneralOptionsHandler: true, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// listen opens a listener, with TLS when a certificate is configured.
func listen(ctx context.Context, c *config, address string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil || c.Listen.TLS.Cert == "" {
		return l, err
	}
	certificate := &certificateFiles{cert: c.Listen.TLS.Cert, key: c.Listen.TLS.Key}
	if _, err := certificate.get(nil); err != nil {
		return nil, usageError(errors.Join(err, l.Close()))
	}
	return tls.NewListener(l, &tls.Config{GetCertificate: certificate.get, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}), nil
}

// certificateFiles is a certificate that is read again whenever its file has changed. It is safe for concurrent use.
type certificateFiles struct {
	cert, key string
	mu        sync.Mutex
	modified  time.Time        // guarded by mu
	loaded    *tls.Certificate // guarded by mu
}

// get implements tls.Config.GetCertificate. A pair that cannot be read, perhaps half replaced, leaves the one before in use.
func (f *certificateFiles) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.cert)
	if err == nil && f.loaded != nil && info.ModTime().Equal(f.modified) {
		return f.loaded, nil
	}
	if err == nil {
		var pair tls.Certificate
		if pair, err = tls.LoadX509KeyPair(f.cert, f.key); err == nil {
			f.loaded, f.modified = &pair, info.ModTime()
		}
	}
	if f.loaded != nil {
		return f.loaded, nil
	}
	return nil, fmt.Errorf("loading the certificate: %w", err)
}
