package main

import (
	"context"
	"errors"
	"time"
)

// ledgerConfig says how long records are kept that repeat others.
type ledgerConfig struct {
	KeepRepeated time.Duration `mapstructure:"keep_repeated"`
}

// problems returns what is wrong with c.
func (c ledgerConfig) problems() []error {
	if c.KeepRepeated < 0 {
		return []error{errors.New("ledger.keep_repeated must not be negative")}
	}
	return nil
}

// thinEvery is how often verdicts that repeat others are looked for, which reads the index of every repository.
const thinEvery = time.Hour

// thinLease is the name under which one of several replicas does it.
const thinLease = "thin"

// thin removes verdicts that repeat others, now and every so often.
func (in *instance) thin(ctx context.Context) {
	keep := in.config.Ledger.KeepRepeated
	if keep == 0 {
		return
	}
	ticker := time.NewTicker(thinEvery)
	defer ticker.Stop()
	for {
		in.thinOnce(ctx, time.Now().Add(-keep))
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (in *instance) thinOnce(ctx context.Context, before time.Time) {
	held, release := in.lease(ctx, thinLease)
	if !held {
		return
	}
	defer release()
	n, err := in.ledger.Thin(ctx, before)
	if err != nil && ctx.Err() == nil {
		in.log.WarnContext(ctx, "removing verdicts that repeat others", "err", err)
	}
	if n > 0 {
		in.log.InfoContext(ctx, "verdicts that repeat others removed", "verdicts", n)
	}
}
