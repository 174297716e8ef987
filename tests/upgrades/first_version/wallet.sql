INSERT INTO public.accounts VALUES
	(1, NULL, 'card_receipts', '2026-01-01 00:00:00+00'),
	(2, NULL, 'marketplace_revenue', '2026-01-01 00:00:00+00'),
	(3, NULL, 'fees', '2026-01-01 00:00:00+00'),
	(4, NULL, 'promotions', '2026-01-01 00:00:00+00'),
	(5, NULL, 'migration', '2026-01-01 00:00:00+00'),
	(6, NULL, 'adjustments', '2026-01-01 00:00:00+00'),
	(1000, '01a22235-a2ac-706b-ab2e-1f8fcd352f01', NULL, '2026-11-28 12:51:10.203559+00');
INSERT INTO public.alembic_version VALUES
	('0005');
INSERT INTO public.balances VALUES
	(1000, 21000000, 0, 4, 'open', 0, '2026-11-28 12:51:22.753622+00');
INSERT INTO public.transactions OVERRIDING SYSTEM VALUE VALUES
	('01a22235-b4bb-74b1-8fcc-45d85e02385f', 1, 'topup', 25000000, 'Top-up from Visa ending in 4242', '{"topup_id": "01a22235-afb0-7674-a02c-10f570609bab", "card_brand": "visa", "card_last4": "4242", "payment_id": "pi_Vo6hW8lmnN9Cn0cBcVXmaDfU"}', '2026-11-28 12:51:14.741701+00', '2026-11-28 12:51:14.741701+00', NULL, NULL),
	('01a22235-b57d-7477-8e36-a4518928be27', 2, 'purchase', 5000000, 'VM-Starter', '{"purchase_id": "01a22235-ae5d-75ad-af63-a234d165b0b1"}', '2026-11-28 12:51:14.927061+00', '2026-11-28 12:51:14.927061+00', NULL, NULL),
	('01a22235-d386-710e-9926-fcc69fa1b8cb', 3, 'auto_topup', 25000000, 'Automatic top-up from Visa ending in 4242', '{"trigger": "purchase", "topup_id": "01a22235-d2de-748a-b7a3-a0d0b4c9db99", "card_brand": "visa", "card_last4": "4242", "payment_id": "pi_BvRTJ5u6yqyWudIAgE6JeDOX", "threshold_micros": "10000000", "trigger_reference": "01a22235-d1fc-717d-a20e-f24eafe37900"}', '2026-11-28 12:51:22.628144+00', '2026-11-28 12:51:22.628144+00', NULL, NULL),
	('01a22235-d40e-7360-a55d-3cc8c25eecb9', 4, 'purchase', 24000000, 'VM-Builder', '{"purchase_id": "01a22235-d1fc-717d-a20e-f24eafe37900"}', '2026-11-28 12:51:22.753622+00', '2026-11-28 12:51:22.753622+00', NULL, NULL);
INSERT INTO public.chain VALUES
	(1, '\x18e568d952fed10ebc3aa5e48f8dfa9f7d7333b90f36e65a3d2158a12d42cfed'),
	(2, '\xe1a94768b5c3c4827142a2b631113071258854c16c568ed5c37eb3ff6b6d49f8'),
	(3, '\x5144cb3e86b33c17b5888283c8aa4225de8376a0dcf4c987f85fea506e42734a'),
	(4, '\x5e4441488a132081165428a024566c059d50a16d09a23e0a3862bc457892c9c5');
INSERT INTO public.entries VALUES
	(1, 1, '01a22235-b4bb-74b1-8fcc-45d85e02385f', -25000000, NULL, 'topup', '2026-11-28 12:51:14.741701+00', '2026-11-28 12:51:14.741701+00'),
	(1000, 1, '01a22235-b4bb-74b1-8fcc-45d85e02385f', 25000000, 25000000, 'topup', '2026-11-28 12:51:14.741701+00', '2026-11-28 12:51:14.741701+00'),
	(1000, 2, '01a22235-b57d-7477-8e36-a4518928be27', -5000000, 20000000, 'purchase', '2026-11-28 12:51:14.927061+00', '2026-11-28 12:51:14.927061+00'),
	(2, 2, '01a22235-b57d-7477-8e36-a4518928be27', 5000000, NULL, 'purchase', '2026-11-28 12:51:14.927061+00', '2026-11-28 12:51:14.927061+00'),
	(1, 3, '01a22235-d386-710e-9926-fcc69fa1b8cb', -25000000, NULL, 'auto_topup', '2026-11-28 12:51:22.628144+00', '2026-11-28 12:51:22.628144+00'),
	(1000, 3, '01a22235-d386-710e-9926-fcc69fa1b8cb', 25000000, 45000000, 'auto_topup', '2026-11-28 12:51:22.628144+00', '2026-11-28 12:51:22.628144+00'),
	(1000, 4, '01a22235-d40e-7360-a55d-3cc8c25eecb9', -24000000, 21000000, 'purchase', '2026-11-28 12:51:22.753622+00', '2026-11-28 12:51:22.753622+00'),
	(2, 4, '01a22235-d40e-7360-a55d-3cc8c25eecb9', 24000000, NULL, 'purchase', '2026-11-28 12:51:22.753622+00', '2026-11-28 12:51:22.753622+00');
INSERT INTO public.inbox VALUES
	('01a22235-b458-74d3-a3f3-da4ff7dc6583', 'credit_topup', '2026-11-28 12:51:14.738094+00'),
	('01a22235-c9cf-7777-a47b-b67bf2aab6d3', 'arm_auto_topup', '2026-11-28 12:51:20.208677+00'),
	('01a22235-d35f-7193-a684-ce836b656673', 'credit_topup', '2026-11-28 12:51:22.626156+00');
INSERT INTO public.keys VALUES
	('open:01a22235-a2ac-706b-ab2e-1f8fcd352f01', 'open_account', '\x0c171ec75a0aeadb57224f8e9e45b0fac6ae85864c827c31197528e705f6a3dc', 1000, NULL, NULL, NULL, '2026-11-28 12:51:10.203559+00', DEFAULT, NULL, NULL),
	('topup:01a22235-afb0-7674-a02c-10f570609bab', 'credit', '\x1581594b80a9c02d0e5be38e2b0e83d01e57ff077b3e78db5f0b0c7b57914e9e', 1000, '01a22235-b4bb-74b1-8fcc-45d85e02385f', NULL, NULL, '2026-11-28 12:51:14.741701+00', DEFAULT, NULL, NULL),
	('purchase:01a22235-ae5d-75ad-af63-a234d165b0b1', 'debit', '\xa6b13580a1768d3f7f9ad79eb2db3a9abafee7a9253f0b56cea8eac1631c6194', 1000, '01a22235-b57d-7477-8e36-a4518928be27', NULL, NULL, '2026-11-28 12:51:14.927061+00', DEFAULT, NULL, NULL),
	('topup:01a22235-d2de-748a-b7a3-a0d0b4c9db99', 'credit', '\x27c4d8d63b14f9551eb5e4cbacc97e4abca79314ac277d8191364482987ed383', 1000, '01a22235-d386-710e-9926-fcc69fa1b8cb', NULL, NULL, '2026-11-28 12:51:22.628144+00', DEFAULT, NULL, NULL),
	('purchase:01a22235-d1fc-717d-a20e-f24eafe37900', 'debit', '\x2f4149e601212b728fe36d23c7b74f0c663e76b4eebbc43e4ae6f022dac6dfa5', 1000, '01a22235-d40e-7360-a55d-3cc8c25eecb9', NULL, NULL, '2026-11-28 12:51:22.753622+00', DEFAULT, NULL, NULL);
INSERT INTO public.levels VALUES
	(1000, 'auto_topup', 10000000, true, 1);
INSERT INTO public.outbox OVERRIDING SYSTEM VALUE VALUES
	(1, '01a22235-b4bc-738c-b4a5-2d389c627742', 'wallet', 'wallet_credited', true, '{"kind": "topup", "user_id": "01a22235-a2ac-706b-ab2e-1f8fcd352f01", "version": 1, "event_id": "01a22235-b4bc-738c-b4a5-2d389c627742", "topup_id": "01a22235-afb0-7674-a02c-10f570609bab", "occurred_at": "2026-11-28T12:51:14.741701Z", "amount_micros": 25000000, "balance_micros": 25000000, "transaction_id": "01a22235-b4bb-74b1-8fcc-45d85e02385f", "available_micros": 25000000}', '{"nameko.call_id_stack": ["wallet.credit_topup.f59a62be-21a5-4581-8058-c01644d41904"]}', 0, '2026-11-28 12:51:14.738094+00', '2026-11-28 12:51:14.738094+00', '2026-11-28 12:51:14.826142+00'),
	(2, '01a22235-d386-710e-9926-fcc7c9ee0894', 'wallet', 'wallet_credited', true, '{"kind": "auto_topup", "user_id": "01a22235-a2ac-706b-ab2e-1f8fcd352f01", "version": 1, "event_id": "01a22235-d386-710e-9926-fcc7c9ee0894", "topup_id": "01a22235-d2de-748a-b7a3-a0d0b4c9db99", "occurred_at": "2026-11-28T12:51:22.628144Z", "amount_micros": 25000000, "balance_micros": 45000000, "transaction_id": "01a22235-d386-710e-9926-fcc69fa1b8cb", "available_micros": 45000000}', '{"nameko.call_id_stack": ["wallet.credit_topup.5c1babcf-ca10-4265-8592-8f2b9e88dec9"]}', 0, '2026-11-28 12:51:22.626156+00', '2026-11-28 12:51:22.626156+00', '2026-11-28 12:51:22.660449+00');
SELECT pg_catalog.setval('public.accounts_account_id_seq', 1001, true);
SELECT pg_catalog.setval('public.house_entry_number', 4, true);
SELECT pg_catalog.setval('public.outbox_id_seq', 2, true);
SELECT pg_catalog.setval('public.transactions_position_seq', 4, true);
