package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewaiter/tidewaiter/ledger"
	"github.com/tidewaiter/tidewaiter/proxy"
	"github.com/tidewaiter/tidewaiter/seal"
	"github.com/tidewaiter/tidewaiter/signing"
	"github.com/tidewaiter/tidewaiter/signing/kms"
)

// statementsConfig says how verdicts are stated to others.
type statementsConfig struct {
	KeyFile  string `mapstructure:"key_file"`
	KMS      string
	Verifier string
	Failures bool
}

// maxStatementKeyBytes bounds the file of a signing key: an RSA key of 8192 bits takes 6.4 KiB.
const maxStatementKeyBytes = 16 << 10

// on reports whether anything is stated.
func (s statementsConfig) on() bool { return s.KeyFile != "" || s.KMS != "" }

// problems returns what is wrong with s as far as it can be told from it alone.
func (s statementsConfig) problems() []error {
	var found []error
	if s.KeyFile != "" && s.KMS != "" {
		found = append(found, errors.New("statements: want one of key_file, kms"))
	}
	if s.KMS != "" {
		if err := kms.Check(s.KMS); err != nil {
			found = append(found, fmt.Errorf("statements.kms: %w", err))
		}
	}
	switch {
	case s.on():
		if err := signing.CheckVerifier(s.Verifier); err != nil {
			found = append(found, fmt.Errorf("statements.verifier: %w", err))
		}
	case s.Verifier != "" || s.Failures:
		found = append(found, errors.New("statements needs key_file or kms"))
	}
	return found
}

// key returns the key that statements are signed with, and what identifies it. A key in a service is not fetched yet.
func (s statementsConfig) key() (key signing.SigningKey, id string, err error) {
	if s.KMS != "" {
		key, err := kms.Client{Env: environment}.Key(s.KMS)
		return key, s.KMS, err
	}
	encoded, err := seal.ReadFile(s.KeyFile, maxStatementKeyBytes)
	if err != nil {
		return nil, "", fmt.Errorf("reading the key of statements: %w", err)
	}
	if key, err = signing.ParseSigningKey(encoded); err != nil {
		return nil, "", fmt.Errorf("%s: %w", s.KeyFile, err)
	}
	public, err := key.PublicKey(context.Background()) // which is in memory
	if err != nil {
		return nil, "", err
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	return key, string(der), err
}

// openStatements opens what states verdicts to others; in.statements stays nil where nothing is stated.
func (in *instance) openStatements() error {
	c := in.config.Statements
	if !c.on() {
		return nil
	}
	key, id, err := c.key()
	if err != nil {
		return usageError(err)
	}
	summaries, err := signing.NewSummaries(signing.SummaryOptions{Key: key, Verifier: c.Verifier, Version: version})
	if err != nil {
		return usageError(err)
	}
	made := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tidewaiter_statements_total", Help: "Attempts to state a verdict to others, by what came of them.",
	}, []string{"outcome"})
	for _, o := range signing.Outcomes() { // there from the start, so that whoever alerts sees the first one
		made.WithLabelValues(string(o))
	}
	in.meters.registry.MustRegister(made)
	in.statements, err = signing.NewStatements(signing.StatementOptions{
		Summaries: summaries, Journal: ledger.NewLog[signing.Stated](in.ledger, "statements"), Failures: c.Failures, Log: in.log,
		Signer:  fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "%d:%s,%s", len(id), id, c.Verifier))),
		Observe: func(o signing.Outcome) { made.WithLabelValues(string(o)).Inc() },
	})
	return err
}

// stated returns what the proxy serves as our own word; nil for nothing.
func (in *instance) stated() proxy.Statements {
	if in.statements == nil {
		return nil
	}
	return in.statements
}
