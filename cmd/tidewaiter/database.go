package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/tidewaiter/tidewaiter/advisories"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/scan"
	"github.com/tidewaiter/tidewaiter/upstream"
)

// advisoryPath returns where advisory data is read from.
func (c *config) advisoryPath() (string, error) {
	path := c.Advisories.Path
	if path == "" {
		path = filepath.Join(c.localRoot(), "advisories")
	}
	return filepath.Abs(path)
}

// advisoryFolder returns the folder that databases are brought into.
//
// Errors: advisories.path names a file, which its operator replaces himself.
func (c *config) advisoryFolder() (*advisories.Folder, error) {
	path, err := c.advisoryPath()
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		return nil, usageError(errors.New("advisories.path is a file; to have databases brought there it must be a folder"))
	}
	return advisories.NewFolder(path, checkDatabase, time.Now), nil
}

// checkDatabase reads the whole of a database as the gate will.
func checkDatabase(ctx context.Context, dir string) (gate.Snapshot, error) {
	a, err := scan.OpenAdvisories(ctx, dir, 0, time.Now)
	if err != nil {
		return gate.Snapshot{}, err
	}
	return a.Snapshot(), a.Close()
}

// openAdvisories opens the advisory data there is. None is none, unless advisories.path says that there is some and nothing else would
// bring it. A database that was brought in and has gone bad since gives way to the one before.
func openAdvisories(ctx context.Context, c *config, log *slog.Logger) (*scan.Advisories, error) {
	path, err := c.advisoryPath()
	if err != nil {
		return nil, err
	}
	open := scan.AwaitAdvisories
	if c.Advisories.Path != "" && c.Advisories.Source == "" {
		open = scan.OpenAdvisories
	}
	a, err := open(ctx, path, c.Advisories.MaxAge, time.Now)
	if err == nil || ctx.Err() != nil || errors.Is(err, fs.ErrNotExist) {
		return a, err
	}
	if recoverErr := advisories.NewFolder(path, checkDatabase, time.Now).Recover(ctx); recoverErr != nil {
		return nil, err
	}
	log.ErrorContext(ctx, "the advisories in use cannot be read, the ones before take their place", "err", err)
	return open(ctx, path, c.Advisories.MaxAge, time.Now)
}

// advisorySource returns the artifact advisories are fetched from and what to read it with: the upstream of its host as it is
// configured, or one of its own, for this one repository. Clients get nothing through it, and what clients may pull does not matter.
func (c *config) advisorySource(o upstream.Options) (*upstream.Registries, oci.Reference, error) {
	source, err := advisories.ParseSource(c.Advisories.Source)
	if err != nil {
		return nil, oci.Reference{}, err
	}
	own := upstream.Config{Host: source.Repository.Upstream}
	for _, u := range c.upstreams() {
		if u.Host == own.Host {
			own = u
		}
	}
	own.Allow, own.Deny, own.SignaturesIn = []string{source.Repository.Path}, nil, ""
	registries, err := upstream.New([]upstream.Config{own}, o)
	return registries, source, err
}

// openUpdater makes what fetches advisories, if a source is configured. It fetches nothing until it is run.
func (in *instance) openUpdater() error {
	if in.config.Advisories.Source == "" {
		return nil
	}
	folder, err := in.config.advisoryFolder()
	if err != nil {
		return err
	}
	registries, source, err := in.config.advisorySource(upstream.Options{UserAgent: "tidewaiter/" + version, Log: in.log, Observe: in.meters.exchange})
	if err != nil {
		return usageError(err)
	}
	in.closers = append(in.closers, func() error { registries.Close(); return nil })
	in.updater = advisories.NewUpdater(advisories.UpdaterOptions{
		Folder: folder, Registry: registries, Source: source, Refresh: in.config.Advisories.Refresh, Changed: in.reloadAdvisories,
		Now: time.Now, Random: rand.Float64, Log: in.log,
	})
	return nil
}

// fetchAdvisories asks the source of the advisories whenever that is due, until ctx ends.
func (in *instance) fetchAdvisories(ctx context.Context) {
	if in.updater != nil && in.config.Advisories.Refresh > 0 {
		in.updater.Run(ctx)
	}
}

// watchAdvisories reads the advisories again when somebody brings others, until ctx ends.
func (in *instance) watchAdvisories(ctx context.Context) {
	path, err := in.config.advisoryPath()
	if err == nil && (in.config.Advisories.Path == "" || in.config.Advisories.Source != "") {
		err = os.MkdirAll(path, 0o755) // so that there is something to watch
	}
	if err == nil {
		err = advisories.Watch(ctx, path, in.reloadAdvisories)
	}
	if err != nil && ctx.Err() == nil {
		in.log.WarnContext(ctx, "the advisories are not watched; SIGHUP and advisories.refresh still have them read", "err", err)
	}
}

// attempts returns what came of fetching advisories; zero when none are fetched.
func (in *instance) attempts() advisories.Attempts {
	if in.updater == nil {
		return advisories.Attempts{}
	}
	return in.updater.Attempts()
}
