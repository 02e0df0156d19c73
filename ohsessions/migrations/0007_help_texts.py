import django.db.models.deletion
import ohsessions.models
from django.db import migrations, models


class Migration(migrations.Migration):
    """Texts of the admin only: it runs no SQL."""

    dependencies = [
        ('ohsessions', '0006_pruning'),
    ]

    operations = [
        migrations.AlterField(
            model_name='link',
            name='label',
            field=ohsessions.models.TitleField(blank=True, help_text="The person for whom it is, in its creator's words.", max_length=100),
        ),
        migrations.AlterField(
            model_name='link',
            name='parent',
            field=models.ForeignKey(blank=True, help_text='The link with which it was made. It ends when that link ends.', null=True, on_delete=django.db.models.deletion.CASCADE, related_name='children', to='ohsessions.link'),
        ),
        migrations.AlterField(
            model_name='process',
            name='birth',
            field=models.CharField(help_text='Boot, pid namespace and start time. With the pid they identify the process.', max_length=200),
        ),
        migrations.AlterField(
            model_name='session',
            name='active_at',
            field=models.DateTimeField(help_text='When its last event was stored.'),
        ),
        migrations.AlterField(
            model_name='session',
            name='crashes',
            field=models.PositiveIntegerField(default=0, help_text='Number of crashes in a row.'),
        ),
        migrations.AlterField(
            model_name='session',
            name='first_number',
            field=models.BigIntegerField(default=0, help_text='Events with lower numbers were trimmed.'),
        ),
        migrations.AlterField(
            model_name='session',
            name='forced_by',
            field=models.CharField(blank=True, help_text='The operator, or the quota, that passivates it despite its connections and actions.', max_length=150),
        ),
        migrations.AlterField(
            model_name='session',
            name='init_key',
            field=models.CharField(help_text='Digest of the user and client_id of its INIT. Repeating that INIT returns this session.', max_length=64, null=True, unique=True),
        ),
        migrations.AlterField(
            model_name='session',
            name='last_user_number',
            field=models.BigIntegerField(default=-1, help_text='Number of the last action or interrupt.'),
        ),
        migrations.AlterField(
            model_name='session',
            name='passivate_at',
            field=models.DateTimeField(blank=True, help_text='When it is due for passivation; null if it is not due.', null=True),
        ),
        migrations.AlterField(
            model_name='session',
            name='secrets_version',
            field=models.PositiveIntegerField(db_default=0, default=0, help_text='Grows with each change of the secrets; 0 if there were never any.'),
        ),
        migrations.AlterField(
            model_name='session',
            name='snapshot_file',
            field=models.CharField(blank=True, help_text='File of a snapshot that is too large for this row.', max_length=200),
        ),
        migrations.AlterField(
            model_name='session',
            name='started_epoch',
            field=models.BigIntegerField(default=0, help_text='Epoch in which that action was begun last.'),
        ),
        migrations.AlterField(
            model_name='session',
            name='suspicion',
            field=models.PositiveIntegerField(db_default=0, default=0, help_text='Evidence that it crashes its workers; 8 or more may count as a crash.'),
        ),
    ]
